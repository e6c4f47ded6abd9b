"""The bilevel problems of a phase: which exemplars each learns, beside which others, and for which classes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.exemplars.mnemonics import Mnemonics


class BilevelProblem(NamedTuple):
    """One bilevel problem over the memory, or over the part of it that holds the classes at `positions`.

    Inner batches are drawn from the slots `inner`. The slots `learned`, a subset of them, are learned; none of their
    pixels moves farther than `cap`. The losses run over the classes `seen`; `steps` is the number of outer steps.
    """

    positions: Int32[np.ndarray, " rows"]
    inner: Bool[np.ndarray, "rows slot"]
    learned: Bool[np.ndarray, "rows slot"]
    seen: Bool[np.ndarray, " classes"]
    cap: float
    steps: int


def new_problem(settings: Mnemonics, memory: Memory, new: range) -> BilevelProblem:
    """Return the problem that learns E_i beside E_{0:i-1}, by an inner loop on all exemplars, for all classes seen."""
    position = np.arange(len(memory.counts), dtype=np.int32)
    learned = memory.used & np.isin(position, new)[:, None]
    seen = position < new.stop
    return BilevelProblem(position, memory.used, learned, seen, settings.change_cap, settings.outer_steps)


class _Window(NamedTuple):
    """Rows of the memory that one group of classes is learned in: their class positions, and which may be in use.

    `learned` marks the rows of the group itself; the others stand beside it, or are empty.
    """

    rows: Int32[np.ndarray, " rows"]
    filled: Bool[np.ndarray, " rows"]
    learned: Bool[np.ndarray, " rows"]


def _windows(classes: range, size: int) -> Iterator[_Window]:
    """Yield windows of `size` rows that hold the `classes` in groups.

    A group that the classes do not fill is filled with the classes before them: their exemplars take part but are not
    learned. Rows that are still left, where too few classes have been seen, are empty. So one program serves all groups
    of all phases.
    """
    for start in range(classes.start, classes.stop, size):
        stop = min(start + size, classes.stop)
        window = np.arange(max(stop - size, 0), stop, dtype=np.int32)
        rows = np.append(window, np.zeros(size - len(window), np.int32))
        filled = np.arange(size) < len(window)
        yield _Window(rows, filled, filled & (rows >= start))


def group_problems(settings: Mnemonics, memory: Memory, new: range, size: int) -> list[BilevelProblem]:
    """Return the problems that learn the new classes in groups, each over `size` classes (see `_windows`)."""
    return [
        _in_window(memory.used, window, settings.change_cap, settings.outer_steps) for window in _windows(new, size)
    ]


def _in_window(used: Bool[np.ndarray, "classes slot"], window: _Window, cap: float, steps: int) -> BilevelProblem:
    """Return the problem that learns the slots `used` of a window's group beside those of its other classes."""
    inner = used[window.rows] & window.filled[:, None]
    seen = np.isin(np.arange(len(used)), window.rows[window.filled])
    return BilevelProblem(window.rows, inner, inner & window.learned[:, None], seen, cap, steps)


class HalfProblem(NamedTuple):
    """A problem that learns one half of old exemplars, and the slots of the other half, for its outer loss."""

    problem: BilevelProblem
    other: Bool[np.ndarray, "classes slot"]


def half_problems(settings: Mnemonics, memory: Memory, old: range, size: int | None = None) -> list[list[HalfProblem]]:
    """Split old exemplars class-wise into halves A (even slots) and B (odd slots).

    Args:
        settings: settings of the learned exemplars.
        memory: the exemplars.
        old: class positions of the old exemplars.
        size: number of classes of a problem, as in `group_problems`; None for one problem over all.

    Returns:
        The problems that learn A, each with the slots of B in its classes, and those that learn B. Nothing where a
        class has a single exemplar: one half would lack the class.
    """
    if not len(old) or memory.counts[old.start : old.stop].min() < 2:
        return []
    position = np.arange(len(memory.counts), dtype=np.int32)
    ours = memory.used & np.isin(position, old)[:, None]
    even = np.arange(memory.images.shape[1]) % 2 == 0
    halves = (ours & even, ours & ~even)
    # Without groups the window is the whole memory, in which the rows of other classes have no slot of either half.
    everything = _Window(position, np.isin(position, old), np.isin(position, old))
    windows = [everything] if size is None else list(_windows(old, size))
    split = []
    for mine, other in (halves, halves[::-1]):
        problems = [_in_window(mine, window, settings.adjust_cap, settings.adjust_steps) for window in windows]
        split.append([HalfProblem(problem, other & problem.seen[:, None]) for problem in problems])
    return split


def select(memory: Memory, problem: BilevelProblem) -> Memory:
    """Return the rows of the memory that belong to a problem; rows that only fill it up have no exemplars."""
    counts = np.where(problem.inner.any(axis=1), memory.counts[problem.positions], 0)
    return Memory(memory.images[problem.positions], counts.astype(np.int32))


def update(memory: Memory, problem: BilevelProblem, part: Memory) -> Memory:
    """Return the memory with the exemplars that a problem has learned, taken from its `part`."""
    images, learned = memory.images.copy(), problem.learned.any(axis=1)
    images[problem.positions[learned]] = part.images[learned]
    return memory._replace(images=images)
