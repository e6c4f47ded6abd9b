"""Random streams by name: every use of random numbers in a run has its own stream.

A stream is a pure function of the seed, the phase and the use; no generator is shared. So a resumed run draws the same
numbers as an uninterrupted one, and a new use of random numbers changes no other.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from jaxtyping import UInt32

Key = UInt32[np.ndarray, " 2"]


class Use(IntEnum):
    """The use of a stream."""

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
    BALANCED_ORDER = 11
    BALANCED_AUGMENT = 12
    GATE_HOLDOUT = 13
    FORGET = 14
    REPLAY = 15
    TELL_APART = 16


def root_key(seed: int) -> Key:
    """Return the key of a run."""
    return np.random.SeedSequence(seed).generate_state(2)


@dataclass(frozen=True)
class RandomStream:
    """The random numbers of one use in one phase; `index` distinguishes several streams of the same use."""

    key: tuple[int, int]
    phase: int
    use: Use
    index: tuple[int, ...] = (0,)

    def at(self, *index: int) -> "RandomStream":
        """Return another stream of the same use, with the numbers `index` appended to this one's."""
        return replace(self, index=(*self.index, *index))

    def generator(self) -> np.random.Generator:
        """Return a NumPy generator at the start of the stream."""
        return np.random.default_rng([*self.key, self.phase, self.use, *self.index])

    def jax_key(self) -> Key:
        """Return the raw data of a JAX PRNG key, uint32 [2]."""
        return np.random.SeedSequence([*self.key, self.phase, self.use, *self.index]).generate_state(2)


@dataclass(frozen=True)
class PhaseStreams:
    """The random streams of one phase of a run; `index` distinguishes several problems of the phase."""

    key: tuple[int, int]
    phase: int
    index: int = 0

    def __call__(self, use: Use) -> RandomStream:
        """Return the stream of one use."""
        return RandomStream(self.key, self.phase, use, (self.index,))


def phase_streams(key: Key, phase: int, index: int = 0) -> PhaseStreams:
    """Return the streams of a phase in the run with that key."""
    return PhaseStreams((int(key[0]), int(key[1])), phase, index)


def random_stream(key: Key, phase: int, use: Use, index: int = 0) -> RandomStream:
    """Return the stream of one use in one phase of the run with that key."""
    return phase_streams(key, phase, index)(use)


def stream_key(key: Key, phase: int, use: Use, index: int = 0) -> Key:
    """Return the raw data of a JAX PRNG key for one use in one phase, uint32 [2]."""
    return random_stream(key, phase, use, index).jax_key()


def generator(key: Key, phase: int, use: Use, index: int = 0) -> np.random.Generator:
    """Return a NumPy generator for one use in one phase."""
    return random_stream(key, phase, use, index).generator()
