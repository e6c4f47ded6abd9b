"""The folder of a run (`--out`), which belongs to the configuration in its config.json."""

import dataclasses
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from mnemonics_jax.config.config import Config, differences
from mnemonics_jax.runs.record import KEY, Record, read_record
from mnemonics_jax.runs.tracker import FILE
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import cannot_write, read_json, write_json

SCRATCH = "scratch"
"""Name of the folder of temporary files, which a run removes."""
_WRITTEN = ("summary.json", "manifest.json", "metrics.jsonl", "checkpoints", "tensorboard", FILE, SCRATCH)
"""What a run writes, once it has written config.json."""
_MOST_SHOWN = 20
"""Most settings that a message lists."""


def claim_folder(out: Path, config: Config, record: Record) -> None:
    """Write config.json into the existing folder `out`, unless it is there with the same configuration and data.

    `config` is that of the run's setup, in which the number of classes learned in one program is found already.

    Raises:
        UserError: as `check_folder` does, and when config.json cannot be written.
    """
    check_folder(out, config, record)
    path = out / "config.json"
    if not path.exists():
        with cannot_write(path):
            write_json(path, {**config.to_dict(), KEY: record.to_dict()})


def check_folder(out: Path, config: Config, record: Record | None = None) -> None:
    """Check that the folder `out` belongs to a run of `config`, or that no run has begun in it.

    Raises:
        UserError: when the configurations differ, with the fields; when the data differ from those of `record`; when
            config.json cannot be read; when there are files of the names that a run writes, but no config.json.
    """
    path = out / "config.json"
    if not os.path.lexists(path):
        if foreign := [name for name in _WRITTEN if os.path.lexists(out / name)]:
            raise UserError(
                f"--out {out} has {', '.join(foreign)} but no config.json, so it is not known what wrote them, and "
                "they are left as they are: choose another --out, or move them away"
            )
        return
    found = read_json(path)
    recorded = read_record(found)
    found.pop(KEY, None)
    plain = json.loads(json.dumps(with_recorded(out, config).to_dict()))
    if changed := differences(found, plain):
        # A file of another program differs in everything.
        shown = dict(list(changed.items())[:_MOST_SHOWN])
        listed = "".join(f"\n  {name}: {old!r} there, {new!r} asked for" for name, (old, new) in shown.items())
        more = f"\n  and {len(changed) - len(shown)} more" if len(changed) > len(shown) else ""
        raise UserError(
            f"--out {out} has a run with other settings:{listed}{more}\n"
            "choose another --out, or use the settings of that run"
        )
    if record is not None:
        record.check(recorded, str(path))


def with_recorded(out: Path, config: Config) -> Config:
    """Return `config` with the group size that the run in `out` began with, where `config` leaves it to the device.

    Learning in other groups of classes is another algorithm, so a run keeps its own on every device.
    """
    size = _recorded_group_size(out)
    if size is None or not config.exemplars.learns or config.exemplars.group_classes is not None:
        return config
    return dataclasses.replace(config, exemplars=dataclasses.replace(config.exemplars, group_classes=size))


def _recorded_group_size(out: Path) -> int | None:
    """Return the group size in the config.json of `out`; None where there is none, or no file that can be read."""
    path = out / "config.json"
    with suppress(UserError):
        exemplars: Any = read_json(path).get("exemplars") if path.exists() else None
        size = exemplars.get("group_classes") if isinstance(exemplars, dict) else None
        return size if type(size) is int else None
    return None
