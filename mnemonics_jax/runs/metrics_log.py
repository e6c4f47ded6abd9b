"""The log of a run: metrics.jsonl with one line for each event, and TensorBoard events of the same values."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnemonics_jax.runs.tensorboard import TensorBoard
from mnemonics_jax.runtime.files import cannot_write, remove, write_atomically


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
    """A log of events in metrics.jsonl, and the same as TensorBoard events.

    Both are written again with the `events` up to the resume point, which replaces what a crash has left in them.

    Raises:
        UserError: when a file cannot be written.
    """

    def __init__(self, out: Path, events: list[dict[str, Any]]) -> None:
        self._path = out / "metrics.jsonl"
        self.events = list(events)
        with cannot_write(self._path):
            write_atomically(self._path, lines_of(events))
            self._file = self._path.open("a", encoding="utf-8")
            (out / "tensorboard").mkdir(exist_ok=True)
            for path in (out / "tensorboard").glob("events.out.tfevents.*"):
                remove(path)
            self._board = TensorBoard(out / "tensorboard")
            for event in events:
                self._board.write(event)

    def write(self, event: dict[str, Any]) -> None:
        """Append one event, as one line."""
        self.events.append(event)
        with cannot_write(self._path):
            self._file.write(lines_of([event]))
            self._file.flush()
            self._board.write(event)

    def finish(self, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Show the settings of the run beside its results, in TensorBoard alone."""
        with cannot_write(self._path):
            self._board.finish(settings, results)

    def close(self) -> None:
        """Close both files."""
        with cannot_write(self._path):
            self._file.close()
            self._board.close()


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
