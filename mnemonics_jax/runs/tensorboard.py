"""TensorBoard's view of a run: its numbers as curves over all phases, its settings beside its final results."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams, scalar

_NO_VALUES = ("event", "phase", "step", "problem")


class TensorBoard:
    """Writes TensorBoard events into `folder`, which has to exist.

    A step of a phase is counted on from the last one of the phase before, so that a curve covers the whole run. Events
    without a step are shown at the number of their phase.
    """

    def __init__(self, folder: Path) -> None:
        # Not SummaryWriter: it writes in a thread of its own, which a full disk would end without an error.
        self._writer = EventsWriter(str(folder / "events"))
        self._clocks: dict[str, _Clock] = {}

    def write(self, event: Mapping[str, Any]) -> None:
        """Show the numbers of one event of the metrics log."""
        name, at, step = event["event"], event["phase"], event.get("step")
        if event.get("problem"):
            name += f"_{event['problem']}"  # each problem of a phase counts its steps from 1
        if step is not None:
            at = self._clocks.setdefault(name, _Clock()).total(event["phase"], step)
        for key, value in event.items():
            if key not in _NO_VALUES and isinstance(value, int | float):
                self._add(scalar(f"{name}/{key}", value), at)
        if step is None:
            self._writer.flush()

    def finish(self, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Show the settings of the run, by dotted name, beside those of its results that are numbers."""
        # TensorBoard has no lists; a value that is none of its kinds would be left out of its table.
        plain = {
            name: value if isinstance(value, int | float | str) else str(value) for name, value in settings.items()
        }
        numbers = {
            f"result/{name}": value
            for name, value in results.items()
            if isinstance(value, int | float) and name not in settings
        }
        for summary in hparams(plain, numbers):
            self._add(summary, 0)
        for name, value in numbers.items():
            self._add(scalar(name, value), 0)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._writer.close()

    def _add(self, summary: Summary, step: int) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))


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
