"""Random exemplars."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from mnemonics_jax.exemplars.base import ExemplarStrategy


@dataclass(frozen=True)
class Random(ExemplarStrategy):
    """Real images drawn uniformly, without repetition, from those of each class."""

    name: ClassVar[str] = "random"

    def choose(
        self, features: list[Float[np.ndarray, "_ feature"]], amount: int, room: int, rng: np.random.Generator
    ) -> list[Int[np.ndarray, " amount"]]:
        """Return the first `amount` indices of a random permutation of each class."""
        del room
        return [rng.permutation(len(rows))[:amount] for rows in features]
