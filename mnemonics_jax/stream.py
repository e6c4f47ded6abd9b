"""The class-incremental stream: in which order classes arrive, and what is new and old in phase i."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from jaxtyping import Array, Bool, Int, Int32

from mnemonics_jax.data.dataset import Dataset
from mnemonics_jax.errors import UserError


@dataclass(frozen=True)
class StreamConfig:
    """How the classes are dealt out to phases."""

    phases: Annotated[int, tyro.conf.arg(aliases=["--phases"])] = 5
    """N, the incremental phases after the base phase; they share the remaining classes equally."""
    base: Annotated[int | None, tyro.conf.arg(aliases=["--base"])] = None
    """Classes of the base phase; half of all classes when not given."""
    order_seed: int | None = None
    """Seed of the class order (NumPy's legacy generator). When not given: 1993 + seed, so that seed 0 has the
    order of the literature and every other seed an order of its own."""

    def sizes(self, num_classes: int) -> tuple[int, ...]:
        """Classes that arrive in each of the phases 0..N. Raises `UserError` when they cannot be dealt out."""
        if self.phases < 1:
            raise UserError(f"--phases {self.phases}: at least one incremental phase is needed")
        base = num_classes // 2 if self.base is None else self.base
        if not 1 <= base < num_classes:
            raise UserError(f"--base {base}: with {num_classes} classes choose a base size from 1 to {num_classes - 1}")
        rest = num_classes - base
        if rest % self.phases:
            divisors = ", ".join(str(n) for n in range(1, rest + 1) if rest % n == 0)
            raise UserError(
                f"--phases {self.phases} does not divide the {rest} classes left after a base of {base}: "
                f"choose --phases from {divisors}, or another --base"
            )
        return (base, *[rest // self.phases] * self.phases)


class Classes(NamedTuple):
    """Old and new classes of a phase, as masks over all C positions of the class order."""

    old: Bool[Array | np.ndarray, "classes"]
    new: Bool[Array | np.ndarray, "classes"]

    @property
    def seen(self) -> Bool[Array | np.ndarray, "classes"]:
        """Old and new classes together."""
        return self.old | self.new


@dataclass(frozen=True)
class Stream:
    """A data set dealt out to phases.

    Everywhere past this point a class is known by its *position* in the class order, so the classes seen by the end
    of phase i are exactly 0 .. seen(i) - 1.

    `order[p]` is the data set's label of the class at position p; `sizes[i]` the classes that arrive in phase i.
    """

    dataset: Dataset
    order: Int[np.ndarray, "classes"]
    sizes: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """C, all classes of the stream."""
        return len(self.order)

    @property
    def num_phases(self) -> int:
        """N + 1, the base phase counted in."""
        return len(self.sizes)

    @cached_property
    def train_labels(self) -> Int32[np.ndarray, "image"]:
        """Position of every training image's class."""
        return self._positions[self.dataset.train_labels]

    @cached_property
    def test_labels(self) -> Int32[np.ndarray, "image"]:
        """Position of every test image's class."""
        return self._positions[self.dataset.test_labels]

    @cached_property
    def _positions(self) -> Int32[np.ndarray, "classes"]:
        return np.argsort(self.order).astype(np.int32)

    def seen(self, phase: int) -> int:
        """Classes seen by the end of `phase`."""
        return sum(self.sizes[: phase + 1])

    def new_classes(self, phase: int) -> range:
        """Positions of the classes that arrive in `phase`."""
        return range(self.seen(phase) - self.sizes[phase], self.seen(phase))

    def masks(self, phase: int) -> Classes:
        """Old and new classes of `phase` as masks over all C positions."""
        position, new = np.arange(self.num_classes), self.new_classes(phase)
        return Classes(old=position < new.start, new=(position >= new.start) & (position < new.stop))

    def train_indices(self, phase: int, *, joint: bool = False) -> Int[np.ndarray, "image"]:
        """Training images of D_phase; of D_0 ∪ … ∪ D_phase when `joint`."""
        new = self.new_classes(phase)
        return np.flatnonzero((self.train_labels < new.stop) & (joint | (self.train_labels >= new.start)))

    def test_indices(self, phase: int) -> Int[np.ndarray, "image"]:
        """Test images of all classes seen by the end of `phase`."""
        return np.flatnonzero(self.test_labels < self.seen(phase))

    def phase_of_class(self) -> Int[np.ndarray, "classes"]:
        """The phase in which each class position arrives."""
        return np.repeat(np.arange(self.num_phases), self.sizes)


def class_order(num_classes: int, seed: int) -> Int[np.ndarray, "classes"]:
    """One shuffle of arange(C) by NumPy's legacy generator: the literature's order for seed 1993."""
    order = np.arange(num_classes)
    np.random.RandomState(seed).shuffle(order)
    return order


def make_stream(config: StreamConfig, dataset: Dataset, seed: int) -> Stream:
    """The stream of `dataset` for run `seed`. Raises `UserError` when the classes cannot be dealt out."""
    sizes = config.sizes(dataset.num_classes)
    order_seed = 1993 + seed if config.order_seed is None else config.order_seed
    return Stream(dataset, class_order(dataset.num_classes, order_seed), sizes)
