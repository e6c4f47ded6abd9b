"""The loop of both levels: chunks of jitted steps, with a check of numbers, progress and a resume point after each."""

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

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
        """Return the state after a chunk, and its log: a NamedTuple of arrays [chunk_steps]."""

    def record(self, state: State, first: int, log: Log) -> State:
        """Return the state with what it stores of the log of the steps from `first` on."""

    def progress(self, done: int, log: Log) -> dict[str, int | float]:
        """Return what to show after `done` steps."""

    def event(self, first: int, done: int, progress: dict[str, int | float]) -> tuple[str, dict[str, Any]] | None:
        """Return name and values of an event for the log after the steps first .. done-1; None for no event."""


def run_chunks(program: ChunkProgram[State], point: ResumePoint, callbacks: Callbacks) -> State:
    """Run the steps of a stage that are left from a resume point on, and return the last state.

    From a resume point that `callbacks.checkpoint` received, it ends with the same bits as without the interruption.

    Args:
        program: the steps of the stage.
        point: the resume point.
        callbacks: receives progress, events and a resume point after each chunk.

    Raises:
        NumbersError: when a logged value is not finite; this is noticed at the end of its chunk.
    """
    phase = int(point.state.phase)
    callbacks.stage(phase, point.stage.title, program.steps)
    done, state = point.done, program.begin(point.loop_state)
    batches = program.batches(done)
    while done < program.steps:
        first, done = done, min(done + program.chunk_steps, program.steps)
        state, log = program.run(state, next(batches))
        log = {name: np.asarray(values)[: done - first] for name, values in log._asdict().items()}
        _check_finite(program, first, log)
        state = program.record(state, first, log)
        progress = program.progress(done, log)
        callbacks.advance(done, **progress)
        if (event := program.event(first, done, progress)) is not None:
            callbacks.event(event[0], phase, step=done, **event[1])
        callbacks.checkpoint(point._replace(done=done, loop_state=state))
    return state


def _check_finite(program: ChunkProgram, first: int, log: Log) -> None:
    finite = np.all([np.isfinite(values) for values in log.values()], axis=0)
    if not finite.all():
        raise program.not_finite.at(first + int(np.flatnonzero(~finite)[0]), program.steps)
