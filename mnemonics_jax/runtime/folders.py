"""Atomic folders: a reader finds the whole folder or none.

A folder is first written as a draft named NAME.part. A manifest with checksums lists its files; then the draft gets its
name. So NAME.part was never finished, and NAME is damaged if it differs from its manifest.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import remove, write_json

FORMAT = 4
"""Format number in every manifest. Increase it with each change to the names or the content of these folders."""
_MANIFEST = "manifest.json"
_DRAFT = ".part"
_OLD = ".old"


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
    remove(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
        if facts is not None:
            write_manifest(draft, facts)
        if replace and os.path.lexists(folder):
            remove_folder(folder)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def remove_folder(folder: Path) -> None:
    """Rename `folder` to a draft and remove it: after a crash the rest counts as never finished, not as damaged.

    A file in its place is removed too.
    """
    old = folder.with_name(f"{folder.name}{_OLD}{_DRAFT}")
    remove(old)
    folder.rename(old)
    remove(old)


def remove_drafts(parent: Path, names: re.Pattern[str]) -> None:
    """Remove the drafts that crashes have left in `parent`, of folders whose whole name matches `names`.

    Other programs may have files of that suffix there, too.
    """
    for path in parent.glob("*" + _DRAFT):
        if names.fullmatch(path.name.removesuffix(_DRAFT).removesuffix(_OLD)):
            remove(path)


def write_manifest(folder: Path, facts: dict[str, Any], names: Sequence[str] | None = None) -> None:
    """Write manifest.json: `FORMAT`, `facts`, size and SHA-256 of files in `folder`, and a checksum of all these.

    `facts` are plain JSON values. `names` are the files; without them it has every file in and below `folder`.
    """
    if names is None:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    content = {"format": FORMAT, "facts": facts, "files": {name: _measure(folder / name) for name in names}}
    write_json(folder / _MANIFEST, {**content, "checksum": _checksum(content)})


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Check every file of `folder` against its manifest, and return the manifest's facts.

    Raises:
        CorruptedError: for the first file that differs.
        FormatError: for a folder in another format.
    """
    content = _read_manifest(folder)
    for name in content["files"]:
        if difference := _difference(folder, name, content):
            raise CorruptedError(difference)
    return content["facts"]


def changed_files(folder: Path) -> set[str]:
    """Return the names of the files that differ from the folder's manifest.

    Raises:
        CorruptedError: when the manifest itself is damaged.
        FormatError: for a folder in another format.
    """
    content = _read_manifest(folder)
    return {name for name in content["files"] if _difference(folder, name, content)}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    # Reading a pipe would wait for ever.
    if path.exists() and not path.is_file():
        raise CorruptedError(f"{path} is not a file")
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
    return content


def _difference(folder: Path, name: str, manifest: dict[str, Any]) -> str:
    """Return how a file differs from the manifest, or nothing where it does not."""
    path, (size, digest) = folder / name, manifest["files"][name]
    if path.exists() and not path.is_file():
        return f"{path} is not a file"
    try:
        found, found_digest = _measure(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    if found != size:
        return f"{path} has {found} bytes instead of {size}"
    return f"{path} has changed bytes" if found_digest != digest else ""


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
