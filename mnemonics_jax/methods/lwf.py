"""Learning without Forgetting (Li and Hoiem, 2016), with exemplars."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from jaxtyping import Float

from mnemonics_jax.methods.base import LossInputs, Method
from mnemonics_jax.nets.losses import cross_entropy, distillation
from mnemonics_jax.runtime.lazy import Array


@dataclass(frozen=True)
class LwF(Method):
    """Cross-entropy plus distillation of the previous model's logits; prediction by the classifier.

    L = CE(z, y) + β T² KL(softmax(t/T) ‖ softmax(z/T)).

    The usual statement of the weight is T² β |old| on a divergence averaged over its |old| entries; |old| cancels.
    """

    name: ClassVar[str] = "lwf"
    temperature: Annotated[float, Gt(0)] = 2.0
    """Temperature T of the distillation: a larger one softens the distributions of both models."""
    distillation_weight: Annotated[float, Ge(0)] = 0.25
    """Weight β of the distillation; that of the cross-entropy is 1."""

    @property
    def base_loss(self) -> str:
        """Cross-entropy: without old classes there is nothing to distil."""
        return "cross-entropy"

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """Return the loss of the class's docstring, a mean over the batch."""
        logits, classes = inputs.outputs.logits, inputs.classes
        learn = cross_entropy(logits, inputs.labels, classes.seen)
        distilled = distillation(logits, inputs.previous.logits, classes.old, self.temperature)
        return (learn + self.distillation_weight * self.temperature**2 * distilled).mean()
