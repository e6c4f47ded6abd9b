"""A method and an exemplar kind of one's own, in one file outside of the package.

Each is a frozen dataclass: its fields become settings of the command line and of config.json, their docstrings its
help, and the decorator adds its name to a registry. Nothing else has to know of them, and everything works with them:
`run`, `compare`, resuming, the report.

    python experiments/custom_method.py

compares them on the digits with LwF and herding. Any command of `mnemonics` can be given instead:

    python experiments/custom_method.py run digits --method still --exemplars spread --method.weight 2
    python experiments/custom_method.py run digits --method still --exemplars spread --help
    python experiments/custom_method.py report runs/custom
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float, Int

from mnemonics_jax import cli
from mnemonics_jax.errors import UserError
from mnemonics_jax.exemplars import Exemplars, register_exemplars
from mnemonics_jax.inference import unit
from mnemonics_jax.methods import LossInputs, Method, register_method
from mnemonics_jax.methods.losses import cross_entropy
from mnemonics_jax.nets.heads import normalize

COMPARISON = (
    *("compare", "digits", "--methods", "lwf", "still", "--exemplars", "herding", "spread"),
    *("--seeds", "3", "--out", "runs/custom"),
)


@register_method
@dataclass(frozen=True)
class Still(Method):
    """Cross-entropy, and features that stay where the previous model had them: L = CE(z, y) + w |f/|f| − f'/|f'||².

    A method may also prepare the new head (`prepare`), hold some parameters still (`restrict`), fit a correction on
    samples kept out of training (`calibrate`) and choose how to predict (`predicts_by`): see `mnemonics_jax.methods`.
    """

    name: ClassVar[str] = "still"

    weight: float = 1.0
    """w, weight of the distance between a feature and what it was."""

    def validate(self) -> None:
        """Raises `UserError` for a setting out of range."""
        if self.weight < 0:
            raise UserError(f"--method.weight {self.weight}: must not be negative")

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """A mean over the batch. Logits of classes to come never enter: `classes.seen` masks them."""
        learn = cross_entropy(inputs.outputs.logits, inputs.labels, inputs.classes.seen)
        moved = normalize(inputs.outputs.features, axis=-1) - normalize(inputs.previous.features, axis=-1)
        # In phase 0 there is no previous model, and nothing to stay close to.
        return (learn + inputs.classes.old.any() * self.weight * (moved**2).sum(axis=-1)).mean()


@register_exemplars
@dataclass(frozen=True)
class Spread(Exemplars):
    """Exemplars that cover their class: each next one is the image farthest from all chosen so far.

    That is Gonzalez's greedy answer to the k-centre problem (1985), on unit features. It begins at the class mean.
    """

    name: ClassVar[str] = "spread"

    @property
    def needs_features(self) -> bool:
        """Always."""
        return True

    def choose(
        self, features: list[Float[np.ndarray, "_ feature"]], amount: int, room: int, rng: np.random.Generator
    ) -> list[Int[np.ndarray, " amount"]]:
        """Indices of `amount` images of each class; `room` and `rng` are not used."""
        del room, rng
        return [spread(unit(rows), amount) for rows in features]


def spread(points: Float[np.ndarray, "point dimension"], amount: int) -> Int[np.ndarray, " amount"]:
    """The point nearest to the mean, then always the one whose distance to the nearest chosen point is largest."""
    first = int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())
    chosen, nearest = [first], np.linalg.norm(points - points[first], axis=1)
    while len(chosen) < amount:
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


if __name__ == "__main__":
    cli.main(sys.argv[1:] or COMPARISON)
