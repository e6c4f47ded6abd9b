"""The trackers beside TensorBoard that `--track` asks for: whether they can be used, and what happens if one fails."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnemonics_jax.runs.tracker import NamedImages, RunName, Scalars, Service, Tracker
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.progress import Display


def check_services(track: Sequence[Service]) -> None:
    """Check that the services can be used.

    Raises:
        UserError: when the package of one is not installed, or an account is missing, with the way out.
    """
    for name in track:
        _module(name).check()


def open_trackers(track: Sequence[Service], out: Path, display: Display) -> list[Tracker]:
    """Return a tracker of the run in `out` for each service; what fails in one is a warning on `display`."""
    return [Guarded(name, _module(name).tracker(RunName(out, name), display.note), display.warn) for name in track]


class Guarded:
    """A tracker that never stops the run: after its first error it shows nothing more, and `warn` is called once."""

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._name, self._tracker, self._warn = name, tracker, warn
        self._failed = False

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Start to show a run, or go on."""
        self._try(self._tracker.begin, settings)

    def show(self, scalars: Scalars) -> None:
        """Show the values of one event."""
        self._try(self._tracker.show, scalars)

    def finish(self, results: Mapping[str, int | float], images: NamedImages) -> None:
        """Show the final results and images."""
        self._try(self._tracker.finish, results, images)

    def close(self) -> None:
        """Write what is left."""
        self._try(self._tracker.close)

    def _try(self, call: Callable[..., None], *values: Any) -> None:
        if self._failed:
            return
        try:
            call(*values)
        # Services and their packages fail in many ways, and none is worth a run.
        except Exception as error:
            self._failed = True
            reason = str(error) or type(error).__name__
            self._warn(f"--track {self._name}: {reason}; the run goes on without it")


def _module(name: Service) -> Any:
    """Return the module of a service.

    Raises:
        UserError: when its package is not installed.
    """
    try:
        return importlib.import_module(f"mnemonics_jax.runs.{name}_tracker")
    except ImportError as error:
        raise UserError(f'--track {name} needs its package ({error}): pip install "mnemonics-jax[{name}]"') from error
