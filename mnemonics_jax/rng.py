"""Random streams by name: every use of chance in a run has a stream of its own, a pure function of seed and place.

Nothing is drawn from a shared, advancing generator, so a resumed run draws what the uninterrupted one would have, and
adding one use of chance moves no other.
"""

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


def root_key(seed: int) -> Key:
    """The key of a run."""
    return np.random.SeedSequence(seed).generate_state(2)


def stream_key(key: Key, phase: int, use: Use, index: int = 0) -> Key:
    """Raw data of a JAX PRNG key for one use in one phase."""
    return np.random.SeedSequence([*map(int, key), phase, use, index]).generate_state(2)


def generator(key: Key, phase: int, use: Use, index: int = 0) -> np.random.Generator:
    """A NumPy generator for one use in one phase."""
    return np.random.default_rng([*map(int, key), phase, use, index])
