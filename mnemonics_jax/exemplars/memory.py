"""The exemplar memory. It has slots for every class of the stream from the start, so that its shape never changes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Shaped


class Memory(NamedTuple):
    """Exemplar images by class position and slot; the first `counts[c]` slots of class c are in use.

    Images are uint8, or float32 in [0, 1] where learned exemplars are stored unrounded.
    """

    images: Shaped[np.ndarray, "classes slot height width channel"]
    counts: Int32[np.ndarray, " classes"]

    @property
    def used(self) -> Bool[np.ndarray, "classes slot"]:
        """Mask of the slots in use."""
        return np.arange(self.images.shape[1]) < self.counts[:, None]

    @property
    def num_bytes(self) -> int:
        """Bytes of the images in use, as stored."""
        return int(self.counts.sum()) * int(np.prod(self.images.shape[2:])) * self.images.dtype.itemsize

    def slots(self) -> Int[np.ndarray, " exemplar"]:
        """Return the flat indices (class · M + slot) of the exemplars in use."""
        return np.flatnonzero(self.used)

    def labels(self) -> Int32[np.ndarray, " slots"]:
        """Return the class position of every flat slot, in use or not."""
        classes, capacity = self.images.shape[:2]
        return np.repeat(np.arange(classes, dtype=np.int32), capacity)


def empty(num_classes: int, capacity: int, image_shape: tuple[int, int, int], dtype: type = np.uint8) -> Memory:
    """Return a memory with room for `capacity` exemplars of each class and none in use."""
    return Memory(np.zeros((num_classes, capacity, *image_shape), dtype), np.zeros(num_classes, np.int32))


def shrink(memory: Memory, budget: int) -> Memory:
    """Return the memory with every class cut to its first `budget` exemplars; freed slots are zeroed."""
    counts = np.minimum(memory.counts, np.int32(budget))
    used = np.arange(memory.images.shape[1]) < counts[:, None]
    return Memory(np.where(used[..., None, None, None], memory.images, 0).astype(memory.images.dtype), counts)


def add_classes(memory: Memory, chosen: Mapping[int, Shaped[np.ndarray, "_ height width channel"]]) -> Memory:
    """Return the memory with the images of each class position in `chosen` stored as that class's exemplars.

    `chosen` has uint8 images, at most as many as the class has slots.
    """
    stored, counts = memory.images.copy(), memory.counts.copy()
    for position, images in chosen.items():
        stored[position, : len(images)] = images if stored.dtype == np.uint8 else images / np.float32(255)
        counts[position] = len(images)
    return Memory(stored, counts)
