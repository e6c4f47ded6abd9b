"""The order of samples in training: random batches, each identified by the number of its step."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Int

from mnemonics_jax.runtime.random_streams import RandomStream


class Order(Sequence):
    """Batches of indices, int64 [batch], by step number. Every process can make any batch without the earlier ones."""

    batch: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Int[np.ndarray, " batch"]:
        # Python iterates over a sequence until IndexError is raised.
        if not 0 <= step < self.steps:
            raise IndexError(f"batch {step} of {self.steps}")
        return self._draw(step)

    @abstractmethod
    def _draw(self, step: int) -> Int[np.ndarray, " batch"]: ...

    def chunk(self, first: int, steps: int) -> Int[np.ndarray, "steps batch"]:
        """Return the batches of `steps` steps from `first` on. Steps after the last one repeat the last batch."""
        return np.stack([self[min(step, self.steps - 1)] for step in range(first, first + steps)])


@dataclass(frozen=True, eq=False)
class Shuffled(Order):
    """Batches cut from a sequence of shuffles of `indices`. `stream` and its number determine each shuffle.

    A batch may hold the end of one shuffle and the start of the next. All batches are therefore full: none is padded,
    and batch statistics never include a filler image.
    """

    indices: Int[np.ndarray, " sample"]
    stream: RandomStream
    batch: int
    steps: int

    def _draw(self, step: int) -> Int[np.ndarray, " batch"]:
        shuffle, place = np.divmod(np.arange(step * self.batch, (step + 1) * self.batch), len(self.indices))
        return np.concatenate([_shuffle(self, int(k))[place[shuffle == k]] for k in np.unique(shuffle)])


# Enough for two shuffles in each of several runs that train at the same time.
@lru_cache(maxsize=16)
def _shuffle(order: Shuffled, number: int) -> Int[np.ndarray, " sample"]:
    return order.stream.at(number).generator().permutation(order.indices)


@dataclass(frozen=True, eq=False)
class Balanced(Order):
    """Batches in which every class is equally likely, whatever its number of samples. `labels` belong to `indices`.

    Classes are drawn like `Shuffled` batches: of G classes, each appears once in every G draws. The samples of a class
    come from a sequence of shuffles of that class.
    """

    indices: Int[np.ndarray, " sample"]
    labels: Int[np.ndarray, " sample"]
    stream: RandomStream
    batch: int
    steps: int

    def _draw(self, step: int) -> Int[np.ndarray, " batch"]:
        classes = self._class_order[step]
        # Each earlier shuffle of the classes has drawn every class once.
        turns = np.arange(step * self.batch, (step + 1) * self.batch) // len(self._groups)
        sizes = np.array([len(self._groups[group]) for group in classes])
        pairs = zip(classes.tolist(), (turns // sizes).tolist(), (turns % sizes).tolist(), strict=True)
        return np.array([_class_shuffle(self, group, number)[place] for group, number, place in pairs])

    @cached_property
    def _groups(self) -> list[Int[np.ndarray, " _"]]:
        return [self.indices[self.labels == label] for label in np.unique(self.labels)]

    @cached_property
    def _class_order(self) -> Shuffled:
        return Shuffled(np.arange(len(self._groups)), self.stream.at(0), self.batch, self.steps)


# Enough for one shuffle of each of a thousand classes.
@lru_cache(maxsize=1024)
def _class_shuffle(order: Balanced, group: int, number: int) -> Int[np.ndarray, " _"]:
    return order.stream.at(1, group, number).generator().permutation(order._groups[group])
