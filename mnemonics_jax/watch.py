"""What a phase tells the outside while it runs: stages with progress, and events worth keeping."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Watch(Protocol):
    """Receives a run's progress and events; `Silent` is one that does nothing."""

    def stage(self, phase: int, name: str, total: int) -> None:
        """A stage of a phase begins that takes `total` steps."""

    def advance(self, done: int, **values: int | float) -> None:
        """The stage has done so many of its steps; `values` are worth showing (loss, accuracy, epoch)."""

    def event(self, name: str, phase: int, **values: Any) -> None:
        """Something to keep, with plain values."""

    def warn(self, message: str) -> None:
        """Something the user should see."""


class Silent:
    """A `Watch` for programs that call phases themselves and want no output."""

    def stage(self, phase: int, name: str, total: int) -> None:
        """Does nothing."""

    def advance(self, done: int, **values: int | float) -> None:
        """Does nothing."""

    def event(self, name: str, phase: int, **values: Any) -> None:
        """Does nothing."""

    def warn(self, message: str) -> None:
        """Does nothing."""
