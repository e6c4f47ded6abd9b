"""The class-incremental stream: the order in which classes arrive, and the new and old classes of each phase."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from annotated_types import Ge, Lt
from jaxtyping import Bool, Int, Int32

from mnemonics_jax.data.dataset import Dataset
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.lazy import Array
from mnemonics_jax.runtime.settings import check_ranges


@dataclass(frozen=True)
class StreamConfig:
    """How the classes are divided into phases."""

    phases: Annotated[int, Ge(1), tyro.conf.arg(aliases=["--phases"])] = 5
    """Number of incremental phases N after the base phase. They share the remaining classes equally."""
    base: Annotated[Annotated[int, Ge(1)] | None, tyro.conf.arg(aliases=["--base"])] = None
    """Number of classes in the base phase (phase 0). None: half of all classes."""
    order_seed: Annotated[int, Ge(0), Lt(2**32)] | None = None
    """Seed of the class order (NumPy's legacy generator). None: 1993 + seed. Seed 0 then has the class order of the
    literature, and every other seed has another order.
    """

    def sizes(self, num_classes: int) -> tuple[int, ...]:
        """Return how many classes arrive in each of the phases 0..N.

        Raises:
            UserError: if `num_classes` classes cannot be divided into these phases.
        """
        check_ranges(self, "stream.")
        base = num_classes // 2 if self.base is None else self.base
        if not 1 <= base < num_classes:
            raise UserError(
                f"--base {base} is not possible with {num_classes} classes: "
                f"choose a base size from 1 to {num_classes - 1}"
            )
        rest = num_classes - base
        if rest % self.phases:
            divisors = ", ".join(str(n) for n in range(1, rest + 1) if rest % n == 0)
            raise UserError(
                f"--phases {self.phases} does not divide the {rest} classes left after a base of {base}: "
                f"choose --phases from {divisors}, or another --base"
            )
        return (base, *[rest // self.phases] * self.phases)


class Classes(NamedTuple):
    """The old and new classes of a phase, as masks over all C positions of the class order."""

    old: Bool[Array | np.ndarray, " classes"]
    new: Bool[Array | np.ndarray, " classes"]

    @property
    def seen(self) -> Bool[Array | np.ndarray, " classes"]:
        """Old and new classes together."""
        return self.old | self.new


@dataclass(frozen=True)
class Stream:
    """A data set divided into phases.

    The rest of the package knows a class by its *position* in the class order, not by its label in the data set. The
    classes seen by the end of phase i are therefore exactly 0 .. seen(i) - 1.

    `order[p]` is the data set's label of the class at position p. `sizes[i]` is the number of classes that arrive in
    phase i.
    """

    dataset: Dataset
    order: Int[np.ndarray, " classes"]
    sizes: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """C, the number of all classes of the stream."""
        return len(self.order)

    @property
    def num_phases(self) -> int:
        """N + 1: the base phase and N incremental phases."""
        return len(self.sizes)

    @cached_property
    def train_labels(self) -> Int32[np.ndarray, " image"]:
        """The class position of every training image."""
        return self._positions[self.dataset.train_labels]

    @cached_property
    def test_labels(self) -> Int32[np.ndarray, " image"]:
        """The class position of every test image."""
        return self._positions[self.dataset.test_labels]

    @cached_property
    def _positions(self) -> Int32[np.ndarray, " classes"]:
        return np.argsort(self.order).astype(np.int32)

    def seen(self, phase: int) -> int:
        """Return the number of classes seen by the end of `phase`."""
        return sum(self.sizes[: phase + 1])

    def new_classes(self, phase: int) -> range:
        """Return the positions of the classes that arrive in `phase`."""
        return range(self.seen(phase) - self.sizes[phase], self.seen(phase))

    def masks(self, phase: int) -> Classes:
        """Return the old and new classes of `phase` as masks over all C positions."""
        position, new = np.arange(self.num_classes), self.new_classes(phase)
        return Classes(old=position < new.start, new=(position >= new.start) & (position < new.stop))

    def train_indices(self, phase: int, *, joint: bool = False) -> Int[np.ndarray, " image"]:
        """Return the indices of the training images of `phase`; with `joint`, of all phases up to it."""
        new = self.new_classes(phase)
        return np.flatnonzero((self.train_labels < new.stop) & (joint | (self.train_labels >= new.start)))

    def test_indices(self, phase: int) -> Int[np.ndarray, " image"]:
        """Return the indices of the test images of all classes seen by the end of `phase`."""
        return np.flatnonzero(self.test_labels < self.seen(phase))

    def phase_of_class(self) -> Int[np.ndarray, " classes"]:
        """Return the phase in which each class position arrives."""
        return np.repeat(np.arange(self.num_phases), self.sizes)


def class_order(num_classes: int, seed: int) -> Int[np.ndarray, " classes"]:
    """Return arange(num_classes), shuffled by NumPy's legacy generator. Seed 1993 gives the literature's order."""
    order = np.arange(num_classes)
    np.random.RandomState(seed).shuffle(order)
    return order


def make_stream(config: StreamConfig, dataset: Dataset, seed: int) -> Stream:
    """Return the stream of `dataset` for the run with this `seed`.

    Raises:
        UserError: if the classes cannot be divided into the phases that `config` asks for.
    """
    sizes = config.sizes(dataset.num_classes)
    # The legacy generator accepts seeds of 32 bits only.
    order_seed = (1993 + seed) % 2**32 if config.order_seed is None else config.order_seed
    return Stream(dataset, class_order(dataset.num_classes, order_seed), sizes)
