"""Settings of the model level: how the network is trained."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float

from mnemonics_jax.runtime.errors import UserError


@dataclass(frozen=True)
class TrainConfig:
    """How the network Θ_i is trained in each phase i."""

    epochs: Annotated[int, Gt(0)] = 160
    """Passes over the phase's new training images and the exemplars."""
    later_epochs: Annotated[int, Gt(0)] | None = None
    """Epochs in phases 1 and later. None: as many as in phase 0 (epochs)."""
    batch_size: Annotated[int, Gt(0)] = 128
    """Images per SGD step."""
    learning_rate: Annotated[float, Gt(0)] = 0.1
    """SGD learning rate at the start of each phase."""
    later_learning_rate: Annotated[float, Gt(0)] | None = None
    """Learning rate at the start of phases 1 and later. None: as in phase 0 (learning_rate)."""
    balanced_steps: Annotated[int, Ge(0)] = 0
    """SGD steps of balanced fine-tuning at the end of phases 1 and later: the whole network is trained with plain
    cross-entropy on the exemplars of all classes seen, new ones included, and the result replaces Θ_i. 0: none."""
    balanced_learning_rate: Annotated[float, Gt(0)] = 0.01
    """Learning rate at the start of the balanced fine-tuning."""
    milestones: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.5, 0.75)
    """When to multiply the learning rate by decay, as fractions of the phase's epochs, or of
    balanced_steps."""
    decay: Annotated[float, Gt(0), Le(1)] = 0.1
    """Factor by which the learning rate is multiplied at each milestone."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    """Weight decay: this multiple of every parameter is added to its gradient."""
    chunk_steps: Annotated[int, Gt(0)] = 16
    """SGD steps per call of the compiled program. After each call the progress is shown and numbers are checked."""

    def validate(self) -> None:
        """Check that settings do not contradict each other.

        Raises:
            UserError: for the first contradiction.
        """
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UserError(
                f"--train.milestones {self.milestones}: give fractions of the epochs in ascending order, as 0.5 0.75"
            )

    def epoch_steps(self, samples: int) -> int:
        """Return the number of steps in an epoch over `samples` images."""
        return -(-samples // self.batch_size)

    def steps(self, phase: int, samples: int) -> int:
        """Return the number of steps in `phase` if it trains on `samples` images."""
        epochs = self.epochs if phase == 0 else self.later_epochs or self.epochs
        return epochs * self.epoch_steps(samples)

    def learning_rates(self, phase: int, steps: int) -> Float[np.ndarray, " steps"]:
        """Return the learning rate of each of the `steps` steps of `phase`, float32."""
        first = self.learning_rate if phase == 0 else self.later_learning_rate or self.learning_rate
        return self._decayed(first, steps)

    def balanced_learning_rates(self) -> Float[np.ndarray, " steps"]:
        """Return the learning rate of each step of the balanced fine-tuning, float32."""
        return self._decayed(self.balanced_learning_rate, self.balanced_steps)

    def _decayed(self, first: float, steps: int) -> Float[np.ndarray, " steps"]:
        passed = np.arange(steps)[:, None] >= np.round(np.asarray(self.milestones) * steps)
        return (first * self.decay ** passed.sum(axis=1)).astype(np.float32)
