"""Random streams by name: every use of chance in a run has a stream of its own, a pure function of seed and place.

Nothing is drawn from a shared, advancing generator, so a resumed run draws what the uninterrupted one would have, and
adding one use of chance moves no other.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from jaxtyping import UInt32

Key = UInt32[np.ndarray, "2"]


class Use(IntEnum):
    """What a stream is for."""

    INIT = 0
    ORDER = 1
    AUGMENT = 2
    CHOOSE = 3
    HOLDOUT = 4
    INNER = 5
    OUTER = 6
    FIT = 7
    PROBE = 8
    INNER_BATCHES = 9
    PROBE_INNER_BATCHES = 10


def root_key(seed: int) -> Key:
    """The key of a run."""
    return np.random.SeedSequence(seed).generate_state(2)


@dataclass(frozen=True)
class RandomStream:
    """One use of chance in one phase; `index` tells several of the same use apart."""

    key: tuple[int, int]
    phase: int
    use: Use
    index: tuple[int, ...] = (0,)

    def at(self, *index: int) -> "RandomStream":
        """A stream of the same use that further numbers tell apart from this one."""
        return replace(self, index=(*self.index, *index))

    def generator(self) -> np.random.Generator:
        """A NumPy generator at the stream's start."""
        return np.random.default_rng([*self.key, self.phase, self.use, *self.index])

    def jax_key(self) -> Key:
        """Raw data of a JAX PRNG key, uint32 [2]."""
        return np.random.SeedSequence([*self.key, self.phase, self.use, *self.index]).generate_state(2)


def random_stream(key: Key, phase: int, use: Use, index: int = 0) -> RandomStream:
    """The stream of one use in one phase of the run with that key."""
    return RandomStream((int(key[0]), int(key[1])), phase, use, (index,))


def stream_key(key: Key, phase: int, use: Use, index: int = 0) -> Key:
    """Raw data of a JAX PRNG key for one use in one phase."""
    return random_stream(key, phase, use, index).jax_key()


def generator(key: Key, phase: int, use: Use, index: int = 0) -> np.random.Generator:
    """A NumPy generator for one use in one phase."""
    return random_stream(key, phase, use, index).generator()
