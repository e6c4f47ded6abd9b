"""Atomic folders: a reader finds the whole folder or none.

A folder is first written as a draft named NAME.part. A manifest with checksums lists its files; then the draft gets its
name. So NAME.part was never finished, and NAME is damaged if it differs from its manifest.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import write_json

FORMAT = 2
"""Format number in every manifest. Increase it with each change to the names or the content of these folders."""
_MANIFEST = "manifest.json"
_DRAFT = ".part"


class CorruptedError(Exception):
    """An error for a file that differs from what was written. The message names the file and the difference."""


class FormatError(UserError):
    """An error for an intact folder in another format than `FORMAT`, which this version cannot read."""


@contextmanager
def atomic_folder(folder: Path, facts: dict[str, Any] | None = None, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty draft to fill, and rename it to `folder` when the block ends; remove it when the block raises.

    Args:
        folder: path of the folder to write.
        facts: plain JSON values for the manifest (`write_manifest`); without them no manifest is written.
        replace: whether to replace an existing `folder`, once the draft is complete.

    Raises:
        OSError: when a file cannot be written, and when `folder` exists and `replace` is false.
    """
    draft = folder.with_name(folder.name + _DRAFT)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        if facts is not None:
            write_manifest(draft, facts)
        if replace and folder.exists():
            remove_folder(folder)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def remove_folder(folder: Path) -> None:
    """Rename `folder` to a draft and remove it: after a crash the rest counts as never finished, not as damaged."""
    old = folder.with_name(f"{folder.name}.old{_DRAFT}")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old)


def remove_drafts(parent: Path) -> None:
    """Remove the drafts that crashes have left in `parent`."""
    for path in parent.glob("*" + _DRAFT):
        shutil.rmtree(path)


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write manifest.json: `FORMAT`, `facts`, size and SHA-256 of every file in `folder`, and a checksum of all these.

    `facts` are plain JSON values.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    content = {"format": FORMAT, "facts": facts, "files": {name: _measure(folder / name) for name in names}}
    write_json(folder / _MANIFEST, {**content, "checksum": _checksum(content)})


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Check every file of `folder` against its manifest, and return the manifest's facts.

    Raises:
        CorruptedError: for the first file that differs.
        FormatError: for a folder in another format.
    """
    path = folder / _MANIFEST
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop("checksum")
    except OSError as error:
        raise CorruptedError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise CorruptedError(f"{path} is damaged") from error
    _check_format(folder, content, checksum)
    if checksum != _checksum(content):
        raise CorruptedError(f"{path} is damaged")
    for name, (size, digest) in content["files"].items():
        try:
            found, found_digest = _measure(folder / name)
        except OSError as error:
            raise CorruptedError(f"{folder / name} cannot be read ({error.strerror})") from error
        if found != size:
            raise CorruptedError(f"{folder / name} has {found} bytes instead of {size}")
        if found_digest != digest:
            raise CorruptedError(f"{folder / name} has changed bytes")
    return content["facts"]


def _check_format(folder: Path, content: dict[str, Any], checksum: Any) -> None:
    """Raise `FormatError` for another format, before its checksum is compared: that may be computed in another way."""
    found = content.get("format")
    if isinstance(found, int) and found != FORMAT:
        how = f"in format {found} by {'a newer' if found > FORMAT else 'an older'} version of mnemonics_jax"
    # The first format had no number, but the same checksum.
    elif "format" not in content and checksum == _checksum(content):
        how = "without a format number by an older version of mnemonics_jax"
    else:
        return
    raise FormatError(
        f"{folder} was written {how}; this one reads format {FORMAT}: use the version that wrote it, or choose "
        "another folder"
    )


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
