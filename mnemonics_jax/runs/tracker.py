"""What shows a run while it runs: the protocol of trackers, and what they are given."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import read_json, write_json

Service = Literal["wandb", "mlflow"]
"""A tracker beside TensorBoard, which `--track` asks for."""

NamedImages = Mapping[str, UInt8[np.ndarray, "height width 3"]]
"""Images in red, green and blue, by name."""

FILE = "tracking.json"
"""Name of the file in a run's folder with the name that each service knows the run by."""
_NO_VALUES = ("event", "phase", "step", "problem")


class Scalars(NamedTuple):
    """The numbers of one event of the metrics log: a point on each of its curves.

    `number` counts the events of the run from 0. `name` says which curves the values belong to. `step` is their place:
    the steps of a phase are counted on from the last one of the phase before, so that a curve covers the whole run; an
    event without a step has the number of its phase.
    """

    number: int
    name: str
    step: int
    values: dict[str, int | float]


@runtime_checkable
class Tracker(Protocol):
    """Shows a run to its user. The calls come in the order of the methods; `finish` only for a run that has ended.

    A run that goes on shows all its events again from the first one, the same as before.
    """

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Start to show a run, or go on; `settings` are those of the run, by dotted name."""

    def show(self, scalars: Scalars) -> None:
        """Show the values of one event."""

    def finish(self, results: Mapping[str, int | float], images: NamedImages) -> None:
        """Show the final results, and images of what the run has made."""

    def close(self) -> None:
        """Write what is left; nothing is shown after it."""


class RunName:
    """The name that `service` knows the run in the folder `out` by, kept in that folder."""

    def __init__(self, out: Path, service: str) -> None:
        self.out, self._service = out, service

    def read(self) -> str | None:
        """Return the name, or None where the service does not know the run yet."""
        name = self._all().get(self._service)
        return name if isinstance(name, str) else None

    def write(self, name: str) -> None:
        """Keep the name."""
        write_json(self.out / FILE, {**self._all(), self._service: name})

    def _all(self) -> dict[str, Any]:
        path = self.out / FILE
        with suppress(UserError):
            found = read_json(path) if path.exists() else {}
            return found if isinstance(found, dict) else {}
        return {}


class Curves:
    """Makes scalars of the events of a run, in their order: each curve covers the whole run."""

    def __init__(self) -> None:
        self._count = 0
        self._clocks: dict[str, _Clock] = {}

    def scalars_of(self, event: Mapping[str, Any]) -> Scalars:
        """Return the scalars of the next event."""
        name, at, step = event["event"], event["phase"], event.get("step")
        if event.get("problem"):
            name += f"_{event['problem']}"  # each problem of a phase counts its steps from 1
        if step is not None:
            at = self._clocks.setdefault(name, _Clock()).total(event["phase"], step)
        values = {
            key: value for key, value in event.items() if key not in _NO_VALUES and isinstance(value, int | float)
        }
        self._count += 1
        return Scalars(self._count - 1, name, at, values)


class _Clock:
    """Counts the steps of all phases from the steps of each."""

    def __init__(self) -> None:
        self._phase, self._before, self._last = -1, 0, 0

    def total(self, phase: int, step: int) -> int:
        """Return the number of steps of earlier phases, as far as they were logged, plus `step`."""
        if phase != self._phase:
            self._phase, self._before = phase, self._last
        self._last = self._before + step
        return self._last
