"""A run's folder: its configuration, its metrics line by line, TensorBoard events made of them, and its summary."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from mnemonics_jax.config import Config, differences
from mnemonics_jax.errors import UserError
from mnemonics_jax.files import write_json, write_whole


def claim_folder(out: Path, config: Config) -> None:
    """Makes the existing folder `out` the folder of a run of `config`, or finds it to be so already.

    Raises `UserError` as `check_folder` does.
    """
    check_folder(out, config)
    path = out / "config.json"
    if not path.exists():
        with cannot_write(path):
            write_json(path, config.to_dict())


def check_folder(out: Path, config: Config) -> None:
    """Raises `UserError` when `out` belongs to a run of another configuration, with the fields that differ.

    So it does when its config.json cannot be read. A folder without one, or none, is anybody's.
    """
    path, plain = out / "config.json", json.loads(json.dumps(config.to_dict()))
    if not path.exists():
        return
    if changed := differences(read_json(path), plain):
        listed = "".join(f"\n  {name}: {old!r} there, {new!r} asked for" for name, (old, new) in changed.items())
        raise UserError(
            f"--out {out} holds a run with other settings:{listed}\nchoose another --out, or these settings"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that a run has written. Raises `UserError` when there is none."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; choose another --out") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): choose another --out") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__} instead of an object: choose another --out")
    return value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The events of a metrics.jsonl; none when it does not exist. A last line cut off in the middle is left out."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return events


class Journal:
    """metrics.jsonl, made anew to begin with the events `kept`, and the TensorBoard events, which are a view of it.

    What a crash left in either file is replaced. Raises `UserError` when a file cannot be written.
    """

    def __init__(self, out: Path, kept: list[dict[str, Any]]) -> None:
        self._path = out / "metrics.jsonl"
        self.events = list(kept)
        with cannot_write(self._path):
            write_whole(self._path, lines_of(kept))
            self._file = self._path.open("a")
            shutil.rmtree(out / "tensorboard", ignore_errors=True)
            (out / "tensorboard").mkdir()
            # Written from this thread, unlike by SummaryWriter, whose thread a full disk would end unnoticed.
            self._board = EventsWriter(str(out / "tensorboard" / "events"))
            for event in kept:
                self._show(event)

    def write(self, event: dict[str, Any]) -> None:
        """Appends one event, as one line."""
        self.events.append(event)
        with cannot_write(self._path):
            self._file.write(lines_of([event]))
            self._file.flush()
            self._show(event)
            if "step" not in event:
                self._board.flush()

    def close(self) -> None:
        """Ends both files."""
        with cannot_write(self._path):
            self._file.close()
            self._board.close()

    def _show(self, event: dict[str, Any]) -> None:
        phase, step = event["phase"], event.get("step")
        name = event["event"] if step is None else f"{event['event']}/phase_{phase}"
        for key, value in event.items():
            if key not in ("event", "phase", "step") and isinstance(value, int | float):
                shown = scalar(f"{name}/{key}", value)
                at = phase if step is None else step
                self._board.write_event(Event(wall_time=time.time(), step=at, summary=shown))


class Unwritten:
    """The journal of a process that leaves writing to another."""

    events: tuple[()] = ()

    def write(self, event: dict[str, Any]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def lines_of(events: list[dict[str, Any]]) -> str:
    """Events as the lines of a metrics.jsonl."""
    return "".join(json.dumps(event) + "\n" for event in events)


@contextmanager
def cannot_write(path: Path) -> Iterator[None]:
    """Turns an `OSError` into a `UserError` that names `path` and the way out."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; nothing saved before is lost: make room and give "
            "the same command again"
        ) from error
