"""The log of a run: metrics.jsonl with one line for each event, whose numbers trackers show."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnemonics_jax.runs.tracker import Curves, NamedImages, Tracker
from mnemonics_jax.runtime.files import cannot_write, write_atomically


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the events of a metrics.jsonl, up to the first broken line; none when the file cannot be read."""
    try:
        content = path.read_bytes() if path.is_file() else b""
    # A run beside may have removed it since.
    except OSError:
        return []
    events = []
    for line in content.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(event, dict):
            break
        events.append(event)
    return events


class MetricsLog:
    """A log of events in metrics.jsonl, whose numbers trackers show: TensorBoard, and the given `trackers`.

    The file is written again with the `events` up to the resume point, which replaces what a crash has left in it; the
    trackers are given the same events. `settings` are those of the run, by dotted name.

    Raises:
        UserError: when a file cannot be written.
    """

    def __init__(
        self,
        out: Path,
        events: list[dict[str, Any]],
        settings: Mapping[str, Any] | None = None,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        # tensorboardX imports PyTorch where that is installed, which whoever only reads logs need not wait for.
        from mnemonics_jax.runs.tensorboard import TensorBoard

        self._path, self._settings = out / "metrics.jsonl", settings or {}
        self.events = list(events)
        self._curves, self._trackers = Curves(), [TensorBoard(out / "tensorboard"), *trackers]
        with cannot_write(self._path):
            write_atomically(self._path, lines_of(events))
            self._file = self._path.open("a", encoding="utf-8")
            for tracker in self._trackers:
                tracker.begin(self._settings)
            for event in events:
                self._show(event)

    def write(self, event: dict[str, Any]) -> None:
        """Append one event, as one line."""
        self.events.append(event)
        with cannot_write(self._path):
            self._file.write(lines_of([event]))
            self._file.flush()
            self._show(event)

    def finish(self, results: Mapping[str, Any], images: NamedImages) -> None:
        """Show images, and those of the final results that are numbers, in the trackers alone."""
        numbers = {
            f"result/{name}": value
            for name, value in results.items()
            if isinstance(value, int | float) and name not in self._settings
        }
        with cannot_write(self._path):
            for tracker in self._trackers:
                tracker.finish(numbers, images)

    def close(self) -> None:
        """Close the file and the trackers."""
        with cannot_write(self._path):
            self._file.close()
            for tracker in self._trackers:
                tracker.close()

    def _show(self, event: Mapping[str, Any]) -> None:
        scalars = self._curves.scalars_of(event)
        for tracker in self._trackers:
            tracker.show(scalars)


class NullLog:
    """The log of a process that is not the primary: it writes nothing."""

    events: tuple[()] = ()

    def write(self, event: dict[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def lines_of(events: list[dict[str, Any]]) -> str:
    """Return events as the lines of a metrics.jsonl."""
    return "".join(json.dumps(event) + "\n" for event in events)
