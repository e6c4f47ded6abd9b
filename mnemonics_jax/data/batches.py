"""Batches for the training chunk: which images, in which order, and where their pixels come from.

A sample is known by one index: 0 .. n-1 are the data set's training images, n + class · M + slot the exemplars.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped, UInt8

from mnemonics_jax.devices import Devices, all_devices
from mnemonics_jax.rng import Key, RandomStream


class Order(Sequence):
    """Batches of indices, int64 [batch] each, by the number of their step: any process can make any of them."""

    batch: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Int[np.ndarray, "batch"]:
        # A sequence is walked until this is raised.
        if not 0 <= step < self.steps:
            raise IndexError(f"batch {step} of {self.steps}")
        return self._draw(step)

    @abstractmethod
    def _draw(self, step: int) -> Int[np.ndarray, "batch"]: ...

    def chunk(self, first: int, steps: int) -> Int[np.ndarray, "steps batch"]:
        """The batches of `steps` steps from the `first` on; past the last one it is repeated."""
        return np.stack([self[min(step, self.steps - 1)] for step in range(first, first + steps)])


@dataclass(frozen=True, eq=False)
class Shuffled(Order):
    """Batches cut from one shuffle of `indices` after another, each shuffle drawn by its number in `stream`.

    The end of one shuffle and the start of the next share a batch, so all batches are full: no remainder is padded,
    and batch statistics never see a filler image.
    """

    indices: Int[np.ndarray, "sample"]
    stream: RandomStream
    batch: int
    steps: int

    def _draw(self, step: int) -> Int[np.ndarray, "batch"]:
        shuffle, place = np.divmod(np.arange(step * self.batch, (step + 1) * self.batch), len(self.indices))
        return np.concatenate([_shuffle(self, int(k))[place[shuffle == k]] for k in np.unique(shuffle)])


# Two shuffles of each of several runs at once.
@lru_cache(maxsize=16)
def _shuffle(order: Shuffled, number: int) -> Int[np.ndarray, "sample"]:
    return order.stream.at(number).generator().permutation(order.indices)


@dataclass(frozen=True, eq=False)
class Balanced(Order):
    """Batches in which every class is as likely, however many samples it has; `labels` are those of `indices`.

    The classes are those of `Shuffled` batches, so that of G classes each is drawn once in every G draws, and the
    samples of a class are taken from one shuffle of them after another.
    """

    indices: Int[np.ndarray, "sample"]
    labels: Int[np.ndarray, "sample"]
    stream: RandomStream
    batch: int
    steps: int

    def _draw(self, step: int) -> Int[np.ndarray, "batch"]:
        classes = self._class_order[step]
        # A class has been drawn once in each of the shuffles of the classes that came before.
        turns = np.arange(step * self.batch, (step + 1) * self.batch) // len(self._groups)
        sizes = np.array([len(self._groups[group]) for group in classes])
        pairs = zip(classes.tolist(), (turns // sizes).tolist(), (turns % sizes).tolist(), strict=True)
        return np.array([_class_shuffle(self, group, number)[place] for group, number, place in pairs])

    @cached_property
    def _groups(self) -> list[Int[np.ndarray, "_"]]:
        return [self.indices[self.labels == label] for label in np.unique(self.labels)]

    @cached_property
    def _class_order(self) -> Shuffled:
        return Shuffled(np.arange(len(self._groups)), self.stream.at(0), self.batch, self.steps)


# One shuffle of each of a thousand classes.
@lru_cache(maxsize=1024)
def _class_shuffle(order: Balanced, group: int, number: int) -> Int[np.ndarray, "_"]:
    return order.stream.at(1, group, number).generator().permutation(order._groups[group])


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
