"""The folder of a run (`--out`), which belongs to the configuration in its config.json."""

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from mnemonics_jax.config.config import Config, differences
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import cannot_write, read_json, write_json


def claim_folder(out: Path, config: Config) -> None:
    """Write config.json into the existing folder `out`, unless it is there with the same configuration.

    `config` is that of the run's setup, in which the number of classes learned in one program is found already.

    Raises:
        UserError: as `check_folder` does, and when config.json cannot be written.
    """
    check_folder(out, config)
    path = out / "config.json"
    if not path.exists():
        with cannot_write(path):
            write_json(path, config.to_dict())


def check_folder(out: Path, config: Config) -> None:
    """Check that the folder `out`, if it has a config.json, belongs to a run of `config`.

    Raises:
        UserError: when the configurations differ, with the fields; when config.json cannot be read.
    """
    path = out / "config.json"
    if not path.exists():
        return
    plain = json.loads(json.dumps(with_recorded(out, config).to_dict()))
    if changed := differences(read_json(path), plain):
        listed = "".join(f"\n  {name}: {old!r} there, {new!r} asked for" for name, (old, new) in changed.items())
        raise UserError(
            f"--out {out} has a run with other settings:{listed}\nchoose another --out, or use the settings of that run"
        )


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
