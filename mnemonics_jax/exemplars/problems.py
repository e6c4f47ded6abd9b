"""The bilevel problems of a phase: which exemplars each learns, beside which others, and for which classes."""

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


def group_problems(settings: Mnemonics, memory: Memory, new: range, size: int) -> list[BilevelProblem]:
    """Return the problems that learn the new classes in groups, each over `size` classes.

    A group that the new classes do not fill is filled with the classes before them: their exemplars take part but are
    not learned. Rows that are still left, in phase 0, are empty. So one program serves all groups of all phases.
    """
    problems = []
    for start in range(new.start, new.stop, size):
        stop = min(start + size, new.stop)
        window = np.arange(max(stop - size, 0), stop, dtype=np.int32)
        rows = np.append(window, np.zeros(size - len(window), np.int32))
        used = memory.used[rows] & (np.arange(size) < len(window))[:, None]
        seen = np.isin(np.arange(len(memory.counts)), window)
        learned = used & (rows >= start)[:, None]
        problems.append(BilevelProblem(rows, used, learned, seen, settings.change_cap, settings.outer_steps))
    return problems


def half_problems(
    settings: Mnemonics, memory: Memory, old: range
) -> list[tuple[BilevelProblem, Bool[np.ndarray, "classes slot"]]]:
    """Split old exemplars class-wise into halves A (even slots) and B (odd slots).

    Returns:
        (problem that learns A, slots B for its outer loss) and (problem that learns B, slots A). Nothing where a class
        has a single exemplar: one half would lack the class.
    """
    position = np.arange(len(memory.counts), dtype=np.int32)
    if not len(old) or memory.counts[old.start : old.stop].min() < 2:
        return []
    ours = memory.used & np.isin(position, old)[:, None]
    even = np.arange(memory.images.shape[1]) % 2 == 0
    halves = (ours & even, ours & ~even)
    seen = position < old.stop
    return [
        (BilevelProblem(position, mine, mine, seen, settings.adjust_cap, settings.adjust_steps), other)
        for mine, other in (halves, halves[::-1])
    ]


def select(memory: Memory, problem: BilevelProblem) -> Memory:
    """Return the rows of the memory that belong to a problem; rows that only fill it up have no exemplars."""
    counts = np.where(problem.inner.any(axis=1), memory.counts[problem.positions], 0)
    return Memory(memory.images[problem.positions], counts.astype(np.int32))


def update(memory: Memory, problem: BilevelProblem, part: Memory) -> Memory:
    """Return the memory with the exemplars that a problem has learned, taken from its `part`."""
    images, learned = memory.images.copy(), problem.learned.any(axis=1)
    images[problem.positions[learned]] = part.images[learned]
    return memory._replace(images=images)
