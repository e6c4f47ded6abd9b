"""Herding: exemplars whose running mean follows the class mean of the features (Rebuffi et al., CVPR 2017)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from mnemonics_jax.exemplars.base import ExemplarStrategy


@dataclass(frozen=True)
class Herding(ExemplarStrategy):
    """Real images whose mean feature follows the class mean, picked greedily as in iCaRL; the first k are a set too."""

    name: ClassVar[str] = "herding"

    @property
    def needs_features(self) -> bool:
        """True: herding compares features."""
        return True

    def choose(
        self, features: list[Float[np.ndarray, "_ feature"]], amount: int, room: int, rng: np.random.Generator
    ) -> list[Int[np.ndarray, " amount"]]:
        """Return the herding order of each class; `rng` is not used."""
        from mnemonics_jax.exemplars.herd import herd_classes  # imports JAX, which settings do without

        del rng
        return herd_classes(features, amount, room)
