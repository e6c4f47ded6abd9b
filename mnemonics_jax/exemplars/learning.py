"""Exemplar learning in a phase: the new classes' exemplars on real data, then the old ones, half against half."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Int32, Shaped

from mnemonics_jax import together
from mnemonics_jax.data.batches import Balanced, Store
from mnemonics_jax.errors import NumbersError
from mnemonics_jax.exemplars.inner import InnerBatches, InnerProgram, Models, draw_batches
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.outer import Learnable, OuterBatches, OuterProblem, learn_chunk, optimizer, outer_losses
from mnemonics_jax.rng import Key, RandomStream, Use, random_stream, stream_key

_ADVICE = "try a smaller --exemplars.inner-learning-rate, --exemplars.outer-learning-rate or --exemplars.outer-clip"


class Learned(NamedTuple):
    """What exemplar learning did, for the log."""

    outer_loss_before: float
    """Mean outer loss with the starting images, over a fixed set of outer batches."""
    outer_loss_after: float
    """The same with the exemplars as they are stored."""
    pixel_change: float
    """Mean absolute change of a learned pixel, in units of the pixel range."""
    gradient_norm: float
    """Mean norm of the meta-gradient before clipping."""
    clipped: int
    """Outer steps whose meta-gradient was clipped."""
    inner_rates: list[float]
    """Size of each inner step."""


class LearnState(NamedTuple):
    """What outer steps change; `norms` are those of the meta-gradients so far, zero for steps to come."""

    learnable: Learnable
    opt_state: optax.OptState
    norms: Float[Array | np.ndarray, "outer_steps"]


class Samples(NamedTuple):
    """Where outer batches come from: `indices` into `store`, `labels[index]` being their classes."""

    store: Store
    indices: Int[np.ndarray, "sample"]
    labels: Int[np.ndarray, "label"]


class Task(NamedTuple):
    """One bilevel problem over the memory, or over the part of it that holds the classes at `positions`.

    Inner batches are drawn from the slots `inner`; of the slots `learned` (among them), no pixel moves farther than
    `cap`. The losses run over the classes `seen`.
    """

    positions: Int32[np.ndarray, "rows"]
    inner: Bool[np.ndarray, "rows slot"]
    learned: Bool[np.ndarray, "rows slot"]
    seen: Bool[np.ndarray, "classes"]
    cap: float
    steps: int


def solve(
    program: InnerProgram,
    models: Models,
    memory: Memory,
    log_rates: Float[np.ndarray, "steps"],
    task: Task,
    samples: Samples,
    key: Key,
    phase: int,
    index: int,
    report: Callable[[int, float], None],
    *,
    begun: tuple[int, LearnState] | None = None,
    keep: Callable[[int, LearnState], None] = lambda done, state: None,
) -> tuple[Memory, Float[np.ndarray, "steps"], Learned]:
    """The memory with the task's slots learned, all other slots unchanged, and the logarithms of the inner step sizes.

    `index` tells the tasks of a phase apart, so that each has random streams of its own. `report` is told (steps done,
    mean outer loss) after each chunk, and `keep` is handed (steps done, state): learning that starts from such a pair
    as `begun` ends with the same bits. Raises `NumbersError` within one chunk of a loss or meta-gradient that is not
    finite.
    """
    settings: Mnemonics = program.settings
    learned = task.learned.reshape(-1)
    labels = np.repeat(task.positions, memory.images.shape[1])
    start = _as_pixels(memory.images)
    devices = samples.store.devices
    low, high = np.clip(start - task.cap, 0, 1), np.clip(start + task.cap, 0, 1)
    problem = devices.put_whole(OuterProblem(models, labels, learned, task.seen, low, high))
    rates = cosine_decay(settings.outer_learning_rate, task.steps)
    probes = (random_stream(key, phase, use, index) for use in (Use.PROBE, Use.PROBE_INNER_BATCHES))
    probe = _batches(settings, task, samples, rates, *probes)(0)
    probe_key = stream_key(key, phase, Use.PROBE, index)
    initial = devices.put_whole(Learnable(start, log_rates))
    before = together.call(outer_losses, program, problem, initial, probe, probe_key)
    done, (learnable, opt_state, norms) = begun or (0, begin_learning(settings, memory, log_rates, task.steps))
    learnable, opt_state = devices.put_whole((learnable, opt_state))
    streams = (random_stream(key, phase, use, index) for use in (Use.OUTER, Use.INNER_BATCHES))
    batches_at = _batches(settings, task, samples, rates, *streams)
    for first in range(done, task.steps, settings.outer_chunk):
        batches = batches_at(first)
        inner_key = stream_key(key, phase, Use.INNER, index)
        learnable, opt_state, log = together.call(
            learn_chunk, program, problem, learnable, opt_state, batches, inner_key
        )
        losses, norm = (np.asarray(values)[batches.active] for values in log)
        if not np.isfinite(losses + norm).all():
            bad = first + int(np.flatnonzero(~np.isfinite(losses + norm))[0])
            raise NumbersError(
                f"the outer loss or its meta-gradient is not finite at outer step {bad} of {task.steps}", _ADVICE
            )
        done = first + len(losses)
        norms = np.concatenate([norms[:first], norm, norms[done:]])
        report(done, float(losses.mean()))
        keep(done, LearnState(learnable, opt_state, norms))
    stored = _as_stored(np.asarray(learnable.pixels), memory, learned)
    log_rates = np.asarray(learnable.log_rates)
    final = devices.put_whole(Learnable(_as_pixels(stored.images), log_rates))
    after = together.call(outer_losses, program, problem, final, probe, probe_key)
    return (
        stored,
        log_rates,
        Learned(
            outer_loss_before=float(np.mean(before)),
            outer_loss_after=float(np.mean(after)),
            pixel_change=float(np.abs(_as_pixels(stored.images) - start)[learned].mean()),
            gradient_norm=float(norms.mean()) if len(norms) else 0.0,
            clipped=int((norms > settings.outer_clip).sum()),
            inner_rates=np.exp(log_rates)[: settings.unroll_length].tolist(),
        ),
    )


def new_task(settings: Mnemonics, memory: Memory, new: range) -> Task:
    """E_i learned beside E_{0:i-1}: the inner loop runs on all exemplars, the outer loss over all classes seen."""
    position = np.arange(len(memory.counts), dtype=np.int32)
    learned = memory.used & np.isin(position, new)[:, None]
    return Task(position, memory.used, learned, position < new.stop, settings.change_cap, settings.outer_steps)


def group_tasks(settings: Mnemonics, memory: Memory, new: range, size: int) -> list[Task]:
    """The new classes in groups, each a problem of its own over `size` classes.

    A group that new classes do not fill is filled with the classes that came before it, which take part but are not
    learned; rows that remain (in the first phase) are empty. So one program serves all groups of all phases.
    """
    tasks = []
    for start in range(new.start, new.stop, size):
        stop = min(start + size, new.stop)
        window = np.arange(max(stop - size, 0), stop, dtype=np.int32)
        rows = np.append(window, np.zeros(size - len(window), np.int32))
        used = memory.used[rows] & (np.arange(size) < len(window))[:, None]
        seen = np.isin(np.arange(len(memory.counts)), window)
        learned = used & (rows >= start)[:, None]
        tasks.append(Task(rows, used, learned, seen, settings.change_cap, settings.outer_steps))
    return tasks


def part_of(memory: Memory, task: Task) -> Memory:
    """The rows of the memory that a task is about; those that only fill it up hold nothing."""
    counts = np.where(task.inner.any(axis=1), memory.counts[task.positions], 0)
    return Memory(memory.images[task.positions], counts.astype(np.int32))


def put_back(memory: Memory, task: Task, part: Memory) -> Memory:
    """The memory with what a task has learned taken from its `part`."""
    images, learned = memory.images.copy(), task.learned.any(axis=1)
    images[task.positions[learned]] = part.images[learned]
    return memory._replace(images=images)


def half_tasks(settings: Mnemonics, memory: Memory, old: range) -> list[tuple[Task, Bool[np.ndarray, "classes slot"]]]:
    """Old exemplars split class-wise into A and B: (learn A, its outer slots B) and (learn B, its outer slots A).

    Even slots are A, odd ones B. None where a class has a single exemplar: a half would then lack the class.
    """
    position = np.arange(len(memory.counts), dtype=np.int32)
    if not len(old) or memory.counts[old.start : old.stop].min() < 2:
        return []
    ours = memory.used & np.isin(position, old)[:, None]
    even = np.arange(memory.images.shape[1]) % 2 == 0
    halves = (ours & even, ours & ~even)
    seen = position < old.stop
    return [
        (Task(position, mine, mine, seen, settings.adjust_cap, settings.adjust_steps), other)
        for mine, other in (halves, halves[::-1])
    ]


def cosine_decay(peak: float, steps: int) -> Float[np.ndarray, "steps"]:
    """Step sizes that fall from `peak` to zero along half a cosine."""
    share = np.arange(steps) / max(steps, 1)
    return (peak * 0.5 * (1 + np.cos(np.pi * share))).astype(np.float32)


def _as_pixels(images: Shaped[np.ndarray, "classes slot height width channel"]) -> Float[np.ndarray, "slots ..."]:
    flat = images.reshape(-1, *images.shape[2:])
    return flat if flat.dtype == np.float32 else flat / np.float32(255)


def _as_stored(pixels: Float[np.ndarray, "slots ..."], memory: Memory, learned: Bool[np.ndarray, "slots"]) -> Memory:
    """The memory with its learned slots' pixels replaced, rounded to bytes where it keeps bytes."""
    images = memory.images.reshape(pixels.shape).copy()
    images[learned] = pixels[learned] if images.dtype == np.float32 else np.rint(pixels[learned] * 255).astype(np.uint8)
    return memory._replace(images=images.reshape(memory.images.shape))


def begin_learning(
    settings: Mnemonics, memory: Memory, log_rates: Float[np.ndarray, "steps"], outer_steps: int
) -> LearnState:
    """The state before the first outer step of a task."""
    learnable = Learnable(_as_pixels(memory.images), log_rates)
    return LearnState(learnable, _init(settings.outer_clip, learnable), np.zeros(outer_steps, np.float32))


@partial(jax.jit, static_argnums=0)
def _init(clip: float, learnable: Learnable) -> optax.OptState:
    return optimizer(clip).init(learnable)


def _batches(
    settings: Mnemonics,
    task: Task,
    samples: Samples,
    rates: Float[np.ndarray, "steps"],
    outer: RandomStream,
    inner: RandomStream,
) -> Callable[[int], OuterBatches]:
    """The outer batches of the chunk that starts at a step, any step: outer and inner loop draw from their streams."""
    store, indices, labels = samples
    # The probe takes a whole chunk, however few outer steps there are.
    room = max(task.steps, settings.outer_chunk)
    order = Balanced(indices, labels[indices], outer, settings.outer_batch, room)

    def chunk(first: int) -> OuterBatches:
        steps = np.arange(first, first + settings.outer_chunk)
        index = order.chunk(first, settings.outer_chunk)
        drawn = [draw_batches(settings, task.inner, inner.at(step)) for step in steps.tolist()]
        padded = np.append(rates, np.zeros(settings.outer_chunk, np.float32))
        return OuterBatches(
            images=store.take(index),
            labels=labels[index],
            inner=InnerBatches(*(np.stack(parts) for parts in zip(*drawn, strict=True))),
            learning_rate=padded[steps],
            index=steps.astype(np.int32),
            active=steps < task.steps,
        )

    return chunk
