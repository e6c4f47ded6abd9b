"""The folder of a run (`--out`), which belongs to the configuration in its config.json."""

import json
from pathlib import Path

from mnemonics_jax.config.config import Config, differences
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import cannot_write, read_json, write_json


def claim_folder(out: Path, config: Config) -> None:
    """Write config.json into the existing folder `out`, unless it is there with the same configuration.

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
    path, plain = out / "config.json", json.loads(json.dumps(config.to_dict()))
    if not path.exists():
        return
    if changed := differences(read_json(path), plain):
        listed = "".join(f"\n  {name}: {old!r} there, {new!r} asked for" for name, (old, new) in changed.items())
        raise UserError(
            f"--out {out} has a run with other settings:{listed}\nchoose another --out, or use the settings of that run"
        )
