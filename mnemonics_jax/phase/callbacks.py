"""What a phase reports while it runs: progress, events for the log, and resume points."""

from typing import Any, Protocol, runtime_checkable

from mnemonics_jax.phase.state import ResumePoint


@runtime_checkable
class Callbacks(Protocol):
    """Receiver of what happens in a phase. `NoCallbacks` is a base class that does nothing: override what you need."""

    def stage(self, phase: int, name: str, total: int) -> None:
        """Handle the start of a stage of `total` steps."""

    def advance(self, done: int, **values: int | float) -> None:
        """Handle the end of a chunk: `done` steps of the stage are done; `values` (loss, ...) are to be shown."""

    def event(self, name: str, phase: int, **values: Any) -> None:
        """Handle an event for the log; `values` are plain Python values."""

    def warn(self, message: str) -> None:
        """Handle a warning for the user."""

    def checkpoint(self, resume_point: ResumePoint) -> None:
        """Handle the resume point after a chunk, from which `run_phase` goes on with the same bits.

        Its arrays must not be changed. Whether to save it is up to the callback.
        """


class NoCallbacks:
    """`Callbacks` that ignore everything; a base class for those that need only some of them."""

    def stage(self, phase: int, name: str, total: int) -> None:
        """Do nothing."""

    def advance(self, done: int, **values: int | float) -> None:
        """Do nothing."""

    def event(self, name: str, phase: int, **values: Any) -> None:
        """Do nothing."""

    def warn(self, message: str) -> None:
        """Do nothing."""

    def checkpoint(self, resume_point: ResumePoint) -> None:
        """Do nothing."""


NO_CALLBACKS = NoCallbacks()
