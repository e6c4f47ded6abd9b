"""Batches of exemplars for the steps of the inner loop."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from mnemonics_jax.data.sampling import Shuffled
from mnemonics_jax.exemplars.base import ExemplarStrategy
from mnemonics_jax.runtime.random_streams import RandomStream


class InnerBatches(NamedTuple):
    """T inner batches of b exemplars: flat slots of the memory and their weights (zero for slots not in use).

    `usable` is 1 for every slot that batches are drawn from, else 0.
    """

    slots: Int32[Array | np.ndarray, "steps batch"]
    weights: Float[Array | np.ndarray, "steps batch"]
    usable: Float[Array | np.ndarray, " slots"]


def draw_batches(
    settings: ExemplarStrategy, usable: Bool[np.ndarray, "classes slot"], stream: RandomStream
) -> InnerBatches:
    """Return the batches of one inner loop.

    Without `inner_batch` every step takes all slots, those that are not usable with weight zero. With it, steps take
    consecutive parts of shuffles of the usable slots, drawn from `stream`.
    """
    used, steps = usable.reshape(-1), settings.unroll_length
    weights = used.astype(np.float32)
    if settings.inner_batch is None:
        every = np.arange(len(used), dtype=np.int32)
        return InnerBatches(*(np.broadcast_to(row, (steps, len(row))) for row in (every, weights)), weights)
    order = Shuffled(np.flatnonzero(used), stream, settings.inner_batch, steps)
    # Without a step there is no batch: T may be 0.
    slots = np.array([*order], np.int32).reshape(steps, settings.inner_batch)
    return InnerBatches(slots, np.ones(slots.shape, np.float32), weights)
