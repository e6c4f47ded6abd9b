"""iCaRL: incremental classifier and representation learning (Rebuffi et al., CVPR 2017)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float

from mnemonics_jax.methods.base import LossInputs
from mnemonics_jax.methods.lwf import LwF
from mnemonics_jax.nets.losses import binary_cross_entropy
from mnemonics_jax.runtime.lazy import Array


@dataclass(frozen=True)
class ICaRL(LwF):
    """Training as in LwF with exemplars; prediction of the class whose exemplars have the nearest mean feature."""

    name: ClassVar[str] = "icarl"
    predicts_by: ClassVar[Literal["classifier", "nearest_mean"]] = "nearest_mean"
    objective: Literal["softmax", "sigmoid"] = "softmax"
    """Training loss. softmax: cross-entropy and distillation as in LwF; sigmoid: the binary cross-entropies of
    the iCaRL paper."""

    @property
    def base_loss(self) -> str:
        """Name of the chosen objective's loss without old classes."""
        return super().base_loss if self.objective == "softmax" else "binary cross-entropies"

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """Return the chosen objective, a mean over the batch."""
        if self.objective == "softmax":
            return super().loss(inputs)
        old, new = inputs.classes
        return binary_cross_entropy(inputs.outputs.logits, inputs.previous.logits, inputs.labels, old, new).mean()
