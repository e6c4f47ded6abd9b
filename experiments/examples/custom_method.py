"""How to add a method and an exemplar kind of your own, in one file outside the package.

Each is a frozen dataclass: its fields become settings of the command line and of config.json, their ranges are checked
(`Ge(0)`: 0 or more), their docstrings are the help texts, and the decorator adds its name to a registry. Nothing else
has to be changed: `run`, `compare`, resuming and the report work with them.

    python experiments/examples/custom_method.py

compares them on the digits with LwF and herding. Any command of `mnemonics` can be given instead:

    python experiments/examples/custom_method.py run digits --method still --exemplars spread --method.weight 2
    python experiments/examples/custom_method.py run digits --method still --exemplars spread --help
    python experiments/examples/custom_method.py report runs/custom
"""

import sys
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge
from jaxtyping import Array, Float, Int

from mnemonics_jax import cli
from mnemonics_jax.exemplars import ExemplarStrategy, register_exemplars
from mnemonics_jax.methods import LossInputs, Method, register_method
from mnemonics_jax.nets.losses import cross_entropy
from mnemonics_jax.nets.outputs import normalize
from mnemonics_jax.phase.evaluation import unit

COMPARISON = (
    *("compare", "digits", "--methods", "lwf", "still", "--exemplars", "herding", "spread"),
    *("--seeds", "3", "--out", "runs/custom"),
)


@register_method
@dataclass(frozen=True)
class Still(Method):
    """Cross-entropy, and features that stay where the previous model had them: L = CE(z, y) + w |f/|f| − f'/|f'||².

    A method may also prepare the new head (`init_head`), freeze some parameters (`mask_updates`), fit a correction of
    the logits on samples held out of training (`fit_correction`) and choose how to predict (`predicts_by`): see
    `mnemonics_jax.methods`.
    """

    name: ClassVar[str] = "still"

    weight: Annotated[float, Ge(0)] = 1.0
    """Weight w of the distance between a feature and its previous value."""

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """Return the mean over the batch. Logits of later classes have no part in it: `classes.seen` masks them."""
        learn = cross_entropy(inputs.outputs.logits, inputs.labels, inputs.classes.seen)
        moved = normalize(inputs.outputs.features, axis=-1) - normalize(inputs.previous.features, axis=-1)
        # In phase 0 there is no previous model to stay close to.
        return (learn + inputs.classes.old.any() * self.weight * (moved**2).sum(axis=-1)).mean()


@register_exemplars
@dataclass(frozen=True)
class Spread(ExemplarStrategy):
    """Exemplars that cover their class: each next one is the image farthest from all chosen so far.

    This is Gonzalez's greedy algorithm for the k-centre problem (1985), on unit features. It starts at the class mean.
    """

    name: ClassVar[str] = "spread"

    @property
    def needs_features(self) -> bool:
        """True: distances are those of features."""
        return True

    def choose(
        self, features: list[Float[np.ndarray, "_ feature"]], amount: int, room: int, rng: np.random.Generator
    ) -> list[Int[np.ndarray, " amount"]]:
        """Return the indices of `amount` images of each class; `room` and `rng` are not used."""
        del room, rng
        return [spread(unit(rows), amount) for rows in features]


def spread(points: Float[np.ndarray, "point dimension"], amount: int) -> Int[np.ndarray, " amount"]:
    """Return the point nearest to the mean, then repeatedly the one farthest from all points chosen so far."""
    first = int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())
    chosen, nearest = [first], np.linalg.norm(points - points[first], axis=1)
    while len(chosen) < amount:
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


if __name__ == "__main__":
    cli.main(sys.argv[1:] or COMPARISON)
