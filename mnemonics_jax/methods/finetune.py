"""The lower bound: fine-tuning on each phase's data with nothing kept."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from mnemonics_jax.methods.base import LossInputs, Method
from mnemonics_jax.methods.losses import cross_entropy


@dataclass(frozen=True)
class Finetune(Method):
    """Cross-entropy over the classes seen, on the new classes' data alone; no exemplars, no distillation."""

    name: ClassVar[str] = "finetune"
    uses_memory: ClassVar[bool] = False

    @property
    def first_phase(self) -> str:
        """In phase 0 all classes seen are new."""
        return "cross-entropy"

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """The cross-entropy, a mean over the batch."""
        return cross_entropy(inputs.outputs.logits, inputs.labels, inputs.classes.seen).mean()
