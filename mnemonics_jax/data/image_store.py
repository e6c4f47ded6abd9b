"""Stores of images: they deliver the pixels of a sample, and batches of pixels with their labels.

One index identifies a sample: 0 .. n-1 are the data set's training images, n + class · M + slot are the exemplars.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped, UInt8

from mnemonics_jax.data.sampling import Order
from mnemonics_jax.runtime.devices import Devices, all_devices
from mnemonics_jax.runtime.random_streams import Key


@runtime_checkable
class ImageStore(Protocol):
    """Images by sample index; never changed in place.

    Every array that a store delivers is split over the devices along the batch axis.
    """

    devices: Devices

    def with_exemplars(self, exemplars: Shaped[np.ndarray, "classes slot height width channel"]) -> "ImageStore":
        """Return a store with the same training images and the memory's exemplars after them."""

    def gather(self, index: Int[np.ndarray, "*batch"]) -> Shaped[Array, "*batch height width channel"]:
        """Return the images of `index`: uint8, or float32 in [0, 1] if exemplars are stored as float32.

        The last axis of `index` is split over the devices, so its length must be a multiple of their number.
        """

    def chunks(
        self, order: Order, first: int, steps: int, crop_key: Key | None
    ) -> Iterator[Shaped[Array, "steps batch height width channel"]]:
        """Yield the images of `order.chunk`, one chunk of `steps` steps after another, from step `first` on.

        If the host makes the random crops, it draws them by `crop_key`. With None, images come as from `gather`.
        """


class DeviceStore:
    """An image store that keeps training images and exemplars in the memory of every device."""

    def __init__(
        self, images: UInt8[np.ndarray, "sample height width channel"], devices: Devices | None = None
    ) -> None:
        self.devices = devices or all_devices()
        self._images = self.devices.put_whole(images)
        self._exemplars = self.devices.put_whole(np.zeros_like(images[:1]))

    def with_exemplars(self, exemplars: Shaped[np.ndarray, "classes slot height width channel"]) -> "DeviceStore":
        """Return a store with these exemplars; both stores share the training images on the device."""
        other = copy(self)
        other._exemplars = self.devices.put_whole(exemplars.reshape(-1, *exemplars.shape[2:]))
        return other

    def gather(self, index: Int[np.ndarray, "*batch"]) -> Shaped[Array, "*batch height width channel"]:
        """Return the images of `index`, see `ImageStore.gather`."""
        return _gather(self.devices, self._images, self._exemplars, index)

    def chunks(
        self, order: Order, first: int, steps: int, crop_key: Key | None
    ) -> Iterator[Shaped[Array, "steps batch height width channel"]]:
        """Yield chunks of images, see `ImageStore.chunks`. Nothing is cropped here, so `crop_key` is ignored."""
        del crop_key
        for start in range(first, len(order), steps):
            yield self.gather(order.chunk(start, steps))


class LabelledBatches(NamedTuple):
    """The images and class positions of `steps` batches."""

    images: Shaped[Array, "steps batch height width channel"]
    labels: Int[np.ndarray, "steps batch"]


@dataclass(frozen=True)
class Samples:
    """Some samples of a store, with labels.

    `indices` are their sample indices. `labels[i]` is the class position of sample i, for all samples of the store.
    """

    store: ImageStore
    indices: Int[np.ndarray, " sample"]
    labels: Int[np.ndarray, " label"]

    def chunks(self, order: Order, first: int, steps: int, crop_key: Key | None = None) -> Iterator[LabelledBatches]:
        """Yield chunks as `ImageStore.chunks` does, each with its labels."""
        images = self.store.chunks(order, first, steps, crop_key)
        for start, chunk in zip(range(first, len(order), steps), images, strict=True):
            yield LabelledBatches(chunk, self.labels[order.chunk(start, steps)])


@partial(jax.jit, static_argnums=0)
def _gather(
    devices: Devices,
    images: UInt8[Array, "sample height width channel"],
    exemplars: Shaped[Array, "exemplar height width channel"],
    index: Int[Array, "*batch"],
) -> Shaped[Array, "*batch height width channel"]:
    index = jax.lax.with_sharding_constraint(index, devices.cut(index.ndim - 1))
    real = images.at[index].get(mode="clip")
    kept = exemplars.at[jnp.maximum(index - len(images), 0)].get(mode="clip")
    if kept.dtype != real.dtype:
        real = real.astype(kept.dtype) / 255
    mixed = jnp.where((index < len(images))[..., None, None, None], real, kept)
    return jax.lax.with_sharding_constraint(mixed, devices.cut(index.ndim - 1))
