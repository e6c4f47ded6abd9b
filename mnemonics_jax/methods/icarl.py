"""iCaRL: incremental classifier and representation learning (Rebuffi et al., CVPR 2017)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Array, Float

from mnemonics_jax.methods.base import LossInputs
from mnemonics_jax.methods.losses import binary_cross_entropy
from mnemonics_jax.methods.lwf import LwF


@dataclass(frozen=True)
class ICaRL(LwF):
    """The representation of LwF with exemplars; predicts the class whose exemplars' mean feature is nearest."""

    name: ClassVar[str] = "icarl"
    predicts_by: ClassVar[Literal["classifier", "nearest_mean"]] = "nearest_mean"
    objective: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: cross-entropy and distillation as in LwF; sigmoid: the original's binary cross-entropies."""

    @property
    def first_phase(self) -> str:
        """By the objective."""
        return super().first_phase if self.objective == "softmax" else "binary cross-entropies"

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """The chosen objective, a mean over the batch."""
        if self.objective == "softmax":
            return super().loss(inputs)
        old, new = inputs.classes
        return binary_cross_entropy(inputs.outputs.logits, inputs.previous.logits, inputs.labels, old, new).mean()
