"""Files that a crash, a full disk or a second process cannot spoil: whole writes, checksums, a lock."""

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnemonics_jax.errors import UserError


def user_cache(name: str) -> Path:
    """The folder `name` of this program in the user's cache; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnemonics_jax" / name


class Damaged(Exception):
    """A file that is not what was written. The message names it and says what is wrong."""


def write_whole(path: Path, content: str) -> None:
    """Writes `content` so that a reader finds the old file or the whole new one, never a part, even after a crash."""
    draft = path.with_name(path.name + ".part")
    with draft.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_json(path: Path, value: Any) -> None:
    """`write_whole` of a value as JSON."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Writes manifest.json: `facts`, size and SHA-256 of every file in `folder`, and a checksum of all that."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    content = {"facts": facts, "files": {name: _measure(folder / name) for name in names}}
    write_json(folder / "manifest.json", {**content, "checksum": _checksum(content)})


def unseal(folder: Path) -> dict[str, Any]:
    """The facts of a sealed folder. Raises `Damaged` for the first file that is not as it was sealed."""
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop("checksum")
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged") from error
    if checksum != _checksum(content):
        raise Damaged(f"{path} is damaged")
    for name, (size, digest) in content["files"].items():
        try:
            found, found_digest = _measure(folder / name)
        except OSError as error:
            raise Damaged(f"{folder / name} cannot be read ({error.strerror})") from error
        if found != size:
            raise Damaged(f"{folder / name} has {found} bytes instead of {size}")
        if found_digest != digest:
            raise Damaged(f"{folder / name} has changed bytes")
    return content["facts"]


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def make_folder(folder: Path) -> None:
    """Makes `folder` if need be. Raises `UserError` when that cannot be."""
    with _usable(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {folder} cannot be used: {error.strerror}; choose a folder that can be written"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes `folder` if need be and holds it for this process: its file `lock` is locked, and names the process.

    The lock is the kernel's and ends with the process, however that ends. Raises `UserError` when another process
    holds it, naming that process, and when the folder cannot be written.
    """
    make_folder(folder)
    with _usable(folder):
        file = open(folder / "lock", "a+")  # noqa: SIM115 (closed below; only opening it may raise this error)
    with file:
        descriptor = file.fileno()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"--out {folder} is in use by {holder}: let it end, stop it, or choose another --out"
            ) from error
        except OSError:
            # Some network file systems know no locks: better a run without one than none.
            pass
        # On a full disk the lock holds all the same, only nameless.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
