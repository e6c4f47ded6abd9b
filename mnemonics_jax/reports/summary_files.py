"""Where finished runs lie: found by the names of files alone, before anything that takes long is imported."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mnemonics_jax.runtime.errors import UserError

_OWN_FOLDERS = ("checkpoints", "tensorboard", "wandb", "export")


def summary_files(folders: Sequence[Path]) -> list[Path]:
    """Return the summary.json files in and below the folders, each once, in order of path.

    Raises:
        UserError: if a folder does not exist or holds no finished run.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: give the folder of a run or of a comparison")
        paths = sorted(_summaries(folder))
        if not paths:
            raise UserError(
                f"{folder} holds no finished run (no summary.json): wait until `mnemonics run` or `compare` is done"
            )
        found |= {path.resolve(): path for path in paths if path.resolve() not in found}
    return list(found.values())


def _summaries(folder: Path) -> Iterator[Path]:
    """Yield the summary.json files in and below a folder.

    Other than `Path.rglob`, this allows that a run beside writes and removes folders at the same time. The folders of
    a run's own files are not looked into.
    """
    for place, inner, names in os.walk(folder):
        if "summary.json" in names:
            yield Path(place) / "summary.json"
        if "config.json" in names:
            inner[:] = [name for name in inner if name not in _OWN_FOLDERS]
