"""The exemplars of a run as one picture: a row for each class, in the order of learning."""

import numpy as np
from jaxtyping import Shaped, UInt8

from mnemonics_jax.exemplars.memory import Memory

_MOST_CLASSES, _MOST_SLOTS = 100, 20
_LEAST_SIDE, _MOST_SIDE = 32, 64
"""Pixels of an exemplar's side in the picture, where a whole factor can reach them."""
_GAP = 2


def exemplar_grid(memory: Memory) -> UInt8[np.ndarray, "height width 3"] | None:
    """Return a picture of the first 20 exemplars of the first 100 classes, on white.

    None where there are no exemplars, and where their channels are neither grey nor red, green and blue.
    """
    classes = np.flatnonzero(memory.counts)[:_MOST_CLASSES]
    if not len(classes) or memory.images.shape[-1] not in (1, 3):
        return None
    slots = min(int(memory.counts[classes].max()), _MOST_SLOTS)
    images = _scaled(_as_bytes(memory.images[classes, :slots]))
    images[~memory.used[classes, :slots]] = 255
    images = np.pad(images, ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
    rows, columns, height, width, channels = images.shape
    grid = images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    return np.ascontiguousarray(np.broadcast_to(grid, (*grid.shape[:2], 3)))


def _as_bytes(images: Shaped[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    return images if images.dtype == np.uint8 else (np.clip(images, 0, 1) * 255).round().astype(np.uint8)


def _scaled(images: UInt8[np.ndarray, "row column _ _ channel"]) -> UInt8[np.ndarray, "row column _ _ channel"]:
    """Return the images with each pixel repeated, or with pixels left out, so that the picture can be looked at."""
    side = max(images.shape[2:4])
    every, times = -(-side // _MOST_SIDE), max(1, -(-_LEAST_SIDE // side))
    return images[:, :, ::every, ::every].repeat(times, axis=2).repeat(times, axis=3)
