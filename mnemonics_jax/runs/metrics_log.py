"""The log of a run: metrics.jsonl with one line for each event, and TensorBoard events of the same values."""

import json
import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

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
            # Not SummaryWriter: it writes in a thread of its own, which a full disk would end without an error.
            self._board = EventsWriter(str(out / "tensorboard" / "events"))
            for event in events:
                self._show(event)

    def write(self, event: dict[str, Any]) -> None:
        """Append one event, as one line."""
        self.events.append(event)
        with cannot_write(self._path):
            self._file.write(lines_of([event]))
            self._file.flush()
            self._show(event)
            if "step" not in event:
                self._board.flush()

    def close(self) -> None:
        """Close both files."""
        with cannot_write(self._path):
            self._file.close()
            self._board.close()

    def _show(self, event: dict[str, Any]) -> None:
        phase, step = event["phase"], event.get("step")
        name = event["event"] if step is None else f"{event['event']}/phase_{phase}"
        if event.get("problem"):
            name += f"_{event['problem']}"  # each problem of a phase counts its steps from 1
        for key, value in event.items():
            if key not in ("event", "phase", "step", "problem") and isinstance(value, int | float):
                shown = scalar(f"{name}/{key}", value)
                at = phase if step is None else step
                self._board.write_event(Event(wall_time=time.time(), step=at, summary=shown))


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
