"""Batches for the training chunk: which images, in which order, and where their pixels come from.

A sample is known by one index: 0 .. n-1 are the data set's training images, n + class · M + slot the exemplars.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped, UInt8


def endless(indices: Int[np.ndarray, "sample"], rng: np.random.Generator, batch: int) -> Iterator[np.ndarray]:
    """Index batches int64 [batch], cut from one shuffle of `indices` after another.

    The end of one shuffle and the start of the next share a batch, so all batches are full: no remainder is padded,
    and batch statistics never see a filler image.
    """
    rest = indices[:0]
    while True:
        while len(rest) < batch:
            rest = np.concatenate([rest, rng.permutation(indices)])
        yield rest[:batch]
        rest = rest[batch:]


def balanced(
    indices: Int[np.ndarray, "sample"], labels: Int[np.ndarray, "sample"], rng: np.random.Generator, batch: int
) -> Iterator[np.ndarray]:
    """Index batches int64 [batch] in which every class is as likely, however many samples it has."""
    groups = [endless(indices[labels == label], rng, 1) for label in np.unique(labels)]
    classes = endless(np.arange(len(groups)), rng, batch)
    while True:
        yield np.concatenate([next(groups[group]) for group in next(classes)])


class DeviceStore:
    """Training images held on the device, exemplars beside them."""

    def __init__(self, images: UInt8[np.ndarray, "sample height width channel"]) -> None:
        self._images = jax.device_put(images)
        self._exemplars = jax.device_put(np.zeros_like(images[:1]))

    def hold(self, exemplars: Shaped[np.ndarray, "classes slot height width channel"]) -> None:
        """Puts the memory's images where `take` finds them."""
        self._exemplars = jax.device_put(exemplars.reshape(-1, *exemplars.shape[2:]))

    def take(self, index: Int[np.ndarray, "*batch"]) -> Shaped[Array, "*batch height width channel"]:
        """The images of `index`: uint8, or float32 in [0, 1] where the memory keeps unrounded exemplars."""
        return _gather(self._images, self._exemplars, index)


@jax.jit
def _gather(
    images: UInt8[Array, "sample height width channel"],
    exemplars: Shaped[Array, "exemplar height width channel"],
    index: Int[Array, "*batch"],
) -> Shaped[Array, "*batch height width channel"]:
    real = images.at[index].get(mode="clip")
    kept = exemplars.at[jnp.maximum(index - len(images), 0)].get(mode="clip")
    if kept.dtype != real.dtype:
        real = real.astype(kept.dtype) / 255
    return jnp.where((index < len(images))[..., None, None, None], real, kept)
