"""The bounds: fine-tuning without exemplars below, joint training on all data above."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float

from mnemonics_jax.methods.base import LossInputs, Method
from mnemonics_jax.nets.losses import cross_entropy
from mnemonics_jax.runtime.lazy import Array


@dataclass(frozen=True)
class Finetune(Method):
    """Cross-entropy over the classes seen, on the new classes' data alone; no exemplars, no distillation."""

    name: ClassVar[str] = "finetune"
    uses_memory: ClassVar[bool] = False

    @property
    def base_loss(self) -> str:
        """Cross-entropy: in phase 0 all classes seen are new."""
        return "cross-entropy"

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """Return the cross-entropy, a mean over the batch."""
        return cross_entropy(inputs.outputs.logits, inputs.labels, inputs.classes.seen).mean()


@dataclass(frozen=True)
class Joint(Finetune):
    """Cross-entropy on D_0 ∪ … ∪ D_i, all data so far: what a method without a memory limit reaches."""

    name: ClassVar[str] = "joint"
    sees_all_data: ClassVar[bool] = True

    @property
    def base_loss(self) -> str:
        """Cross-entropy: in phase 0 the data so far are those of the phase."""
        return "cross-entropy"
