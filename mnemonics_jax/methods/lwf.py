"""Learning without Forgetting (Li and Hoiem, 2016), with exemplars."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from mnemonics_jax.errors import UserError
from mnemonics_jax.methods.base import LossInputs, Method
from mnemonics_jax.methods.losses import cross_entropy, distillation


@dataclass(frozen=True)
class LwF(Method):
    """Cross-entropy plus distillation on the old logits; predicts with the classifier.

    L = CE(z, y) + β T² KL(softmax(t/T) ‖ softmax(z/T)).

    The usual statement of the weight is T² β |old| on a divergence averaged over its |old| entries; |old| cancels.
    """

    name: ClassVar[str] = "lwf"
    temperature: float = 2.0
    """T, softens both distributions in the distillation."""
    distillation_weight: float = 0.25
    """β, weight of the distillation beside the cross-entropy."""

    @property
    def first_phase(self) -> str:
        """Without old classes there is nothing to distil."""
        return "cross-entropy"

    def validate(self) -> None:
        """Raises `UserError` for a setting out of range."""
        if self.temperature <= 0:
            raise UserError(f"--method.temperature {self.temperature}: must be positive")
        if self.distillation_weight < 0:
            raise UserError(f"--method.distillation-weight {self.distillation_weight}: must not be negative")

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """The loss of the class's docstring, a mean over the batch."""
        logits, classes = inputs.outputs.logits, inputs.classes
        learn = cross_entropy(logits, inputs.labels, classes.seen)
        keep = distillation(logits, inputs.previous.logits, classes.old, self.temperature)
        return (learn + self.distillation_weight * self.temperature**2 * keep).mean()
