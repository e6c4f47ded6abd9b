"""The loop of both levels: chunks of jitted steps, with a check of numbers, progress and a resume point after each.

The device need not wait for the host between two chunks: while it computes one, the host reads the log of the chunk
before, handles it (progress, checkpoints), and chooses the next batches.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float

from mnemonics_jax.phase.callbacks import Callbacks
from mnemonics_jax.phase.state import ResumePoint
from mnemonics_jax.runtime.errors import NotFinite

State = TypeVar("State")
Log = dict[str, Float[np.ndarray, " steps"]]


@runtime_checkable
class ChunkProgram(Protocol[State]):
    """One stage in chunks of steps: model training (`TrainingLoop`) or exemplar learning (`LearningLoop`)."""

    not_finite: NotFinite

    @property
    def steps(self) -> int:
        """Number of steps of the stage."""

    @property
    def chunk_steps(self) -> int:
        """Number of steps of one compiled call; in the last call some may be idle."""

    def begin(self, loop_state: State | None) -> State:
        """Return `loop_state` on the devices; without one, the state before the first step."""

    def batches(self, first: int) -> Iterator[Any]:
        """Yield the batches of each chunk from step `first` on, a multiple of `chunk_steps`."""

    def run(self, state: State, batches: Any) -> tuple[State, Any]:
        """Return the state after a chunk, and its log: a NamedTuple of arrays [chunk_steps].

        Must return before they are computed, and leave the arrays of `state` intact: they are those of a resume point.
        """

    def progress(self, done: int, log: Log) -> dict[str, int | float]:
        """Return what to show after `done` steps."""

    def event(self, first: int, done: int, progress: dict[str, int | float]) -> tuple[str, dict[str, Any]] | None:
        """Return name and values of an event for the log after the steps first .. done-1; None for no event."""


class _Chunk(NamedTuple):
    """A chunk of the steps first .. done-1 that the device was given, and its results, not computed yet perhaps."""

    first: int
    done: int
    state: Any
    log: Any


def run_chunks(program: ChunkProgram[State], resume_point: ResumePoint, callbacks: Callbacks) -> State:
    """Run the steps of a stage that are left from a resume point on, and return the last state.

    From a resume point that `callbacks.checkpoint` received, it ends with the same bits as without the interruption.
    The callbacks hear of a chunk once the next one is on its way to the device, so a stop loses up to two chunks.

    Args:
        program: the steps of the stage.
        resume_point: where to start.
        callbacks: receives progress, events and a resume point after each chunk.

    Raises:
        NumbersError: when a logged value is not finite; this is noticed when the next chunk has begun.
    """
    callbacks.stage(int(resume_point.state.phase), resume_point.stage.title, program.steps)
    state, running = program.begin(resume_point.loop_state), None
    batches = program.batches(resume_point.done)
    for first in range(resume_point.done, program.steps, program.chunk_steps):
        state, log = program.run(state, next(batches))
        if running is not None:
            _report(program, resume_point, callbacks, running)
        running = _Chunk(first, min(first + program.chunk_steps, program.steps), state, log)
    if running is not None:
        _report(program, resume_point, callbacks, running)
    return state


def _report(program: ChunkProgram[State], resume_point: ResumePoint, callbacks: Callbacks, chunk: _Chunk) -> None:
    """Wait for a chunk, check its log, and tell the callbacks of it."""
    first, done = chunk.first, chunk.done
    log = {name: values[: done - first] for name, values in jax.device_get(chunk.log)._asdict().items()}
    _check_finite(program, first, log)
    progress = program.progress(done, log)
    callbacks.advance(done, **progress)
    if (event := program.event(first, done, progress)) is not None:
        callbacks.event(event[0], int(resume_point.state.phase), step=done, **event[1])
    callbacks.checkpoint(resume_point._replace(done=done, loop_state=chunk.state))


def _check_finite(program: ChunkProgram, first: int, log: Log) -> None:
    finite = np.all([np.isfinite(values) for values in log.values()], axis=0)
    if not finite.all():
        raise program.not_finite.at(first + int(np.flatnonzero(~finite)[0]), program.steps)
