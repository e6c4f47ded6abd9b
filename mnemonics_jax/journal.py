"""A run's folder: its configuration, its metrics line by line, TensorBoard events made of them, and its summary."""

import json
import shutil
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from mnemonics_jax.config import Config, differences
from mnemonics_jax.errors import UserError


def write_json(path: Path, value: Any) -> None:
    """Writes `value` so that a reader finds the old file or the whole new one, never a part."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(value, indent=2) + "\n")
    draft.replace(path)


def claim_folder(out: Path, config: Config) -> None:
    """Makes `out` the folder of a run of `config`, or finds it to be so already.

    Raises `UserError` when it cannot be written, or belongs to a run of another configuration: with the fields that
    differ.
    """
    path, plain = out / "config.json", json.loads(json.dumps(config.to_dict()))
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_json(path, plain)
            return
        there = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"--out {out} cannot be used: {error.strerror}; choose a folder that can be written") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): choose another --out") from error
    if changed := differences(there, plain):
        listed = "".join(f"\n  {name}: {old!r} there, {new!r} asked for" for name, (old, new) in changed.items())
        raise UserError(
            f"--out {out} holds a run with other settings:{listed}\nchoose another --out, or these settings"
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The events of a metrics.jsonl; none when it does not exist. A last line cut off in the middle is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return events


class Journal:
    """metrics.jsonl, opened to go on before phase `first_phase`, and the TensorBoard events, which are a view of it."""

    def __init__(self, out: Path, first_phase: int) -> None:
        path = out / "metrics.jsonl"
        kept = [event for event in read_metrics(path) if event["phase"] < first_phase]
        draft = out / "metrics.jsonl.part"
        draft.write_text("".join(json.dumps(event) + "\n" for event in kept))
        draft.replace(path)
        self._file = path.open("a")
        shutil.rmtree(out / "tensorboard", ignore_errors=True)
        self._board = SummaryWriter(str(out / "tensorboard"))
        for event in kept:
            self._show(event)

    def write(self, event: dict[str, Any]) -> None:
        """Appends one event, as one line."""
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()
        self._show(event)

    def close(self) -> None:
        """Ends both files."""
        self._file.close()
        self._board.close()

    def _show(self, event: dict[str, Any]) -> None:
        phase, step = event["phase"], event.get("step")
        name = event["event"] if step is None else f"{event['event']}/phase_{phase}"
        for key, value in event.items():
            if key not in ("event", "phase", "step") and isinstance(value, int | float):
                self._board.add_scalar(f"{name}/{key}", value, phase if step is None else step)


class Unwritten:
    """The journal of a process that leaves writing to another."""

    def write(self, event: dict[str, Any]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
