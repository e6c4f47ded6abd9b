"""Batches for the training chunk: which images, in which order, and where their pixels come from.

A sample is known by one index: 0 .. n-1 are the data set's training images, n + class · M + slot the exemplars.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped, UInt8

from mnemonics_jax.devices import Devices, all_devices
from mnemonics_jax.rng import Key, Use, generator


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


@dataclass(frozen=True, eq=False)
class Order(Sequence):
    """The first `steps` batches of `endless`, each by its number: any process can make any of them.

    The shuffles are those of the stream of chance `Use.ORDER` of (`key`, `phase`).
    """

    indices: Int[np.ndarray, "sample"]
    key: Key
    phase: int
    batch: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Int[np.ndarray, "batch"]:
        shuffle, place = np.divmod(np.arange(step * self.batch, (step + 1) * self.batch), len(self.indices))
        return np.concatenate([_shuffle(self, int(k))[place[shuffle == k]] for k in np.unique(shuffle)])

    def chunk(self, first: int, steps: int) -> Int[np.ndarray, "steps batch"]:
        """The batches of `steps` steps from the `first` on; past the last one it is repeated."""
        return np.stack([self[min(step, self.steps - 1)] for step in range(first, first + steps)])


# Two shuffles of each of several runs at once.
@lru_cache(maxsize=16)
def _shuffle(order: Order, number: int) -> Int[np.ndarray, "sample"]:
    rng = generator(order.key, order.phase, Use.ORDER)
    for _ in range(number):
        rng.permutation(len(order.indices))
    return rng.permutation(order.indices)


def balanced(
    indices: Int[np.ndarray, "sample"], labels: Int[np.ndarray, "sample"], rng: np.random.Generator, batch: int
) -> Iterator[np.ndarray]:
    """Index batches int64 [batch] in which every class is as likely, however many samples it has."""
    groups = [endless(indices[labels == label], rng, 1) for label in np.unique(labels)]
    classes = endless(np.arange(len(groups)), rng, batch)
    while True:
        yield np.concatenate([next(groups[group]) for group in next(classes)])


@runtime_checkable
class Store(Protocol):
    """Where a sample's pixels come from. What it delivers is cut over the devices along the batch."""

    devices: Devices

    def hold(self, exemplars: Shaped[np.ndarray, "classes slot height width channel"]) -> None:
        """Puts the memory's images where the samples behind the training images are found."""

    def take(self, index: Int[np.ndarray, "*batch"]) -> Shaped[Array, "*batch height width channel"]:
        """The images of `index` as they are: uint8, or float32 in [0, 1] where the memory keeps unrounded exemplars.

        The last axis of `index` is cut over the devices and has to divide over them.
        """

    def chunks(
        self, order: Order, first: int, steps: int, key: Key
    ) -> Iterator[Shaped[Array, "steps batch height width channel"]]:
        """The images of `order.chunk`, chunk after chunk of `steps` steps from step `first` on, for training.

        They are cropped by the stream of chance `key` where that is the host's part (`host_crops`).
        """


class DeviceStore:
    """Training images held on every device, exemplars beside them."""

    def __init__(
        self, images: UInt8[np.ndarray, "sample height width channel"], devices: Devices | None = None
    ) -> None:
        self.devices = devices or all_devices()
        self._images = self.devices.put_whole(images)
        self._exemplars = self.devices.put_whole(np.zeros_like(images[:1]))

    def hold(self, exemplars: Shaped[np.ndarray, "classes slot height width channel"]) -> None:
        """As in `Store`."""
        self._exemplars = self.devices.put_whole(exemplars.reshape(-1, *exemplars.shape[2:]))

    def take(self, index: Int[np.ndarray, "*batch"]) -> Shaped[Array, "*batch height width channel"]:
        """As in `Store`."""
        return _gather(self.devices, self._images, self._exemplars, index)

    def chunks(
        self, order: Order, first: int, steps: int, key: Key
    ) -> Iterator[Shaped[Array, "steps batch height width channel"]]:
        """As in `Store`; nothing is cropped."""
        del key
        for start in range(first, len(order), steps):
            yield self.take(order.chunk(start, steps))


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
