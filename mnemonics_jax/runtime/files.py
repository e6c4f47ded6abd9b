"""Files that a crash, a full disk or a second process cannot damage: atomic writes, a lock, and clear errors."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnemonics_jax.runtime.errors import UserError


def user_cache_folder(name: str) -> Path:
    """Return the path of the folder `name` in the user's cache for this program; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnemonics_jax" / name


def write_atomically(path: Path, content: str) -> None:
    """Write `content` so that a reader finds the old file or the whole new one, even after a crash."""
    draft = path.with_name(path.name + ".part")
    with draft.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with `write_atomically`."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def make_folder(folder: Path) -> None:
    """Create `folder` if it does not exist. Raise `UserError` when it cannot be created."""
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
    """Create `folder` if it does not exist, and lock it for this process while entered.

    The lock is a lock of the kernel on the file `lock`, which names the process. It ends with the process, even after a
    crash.

    Raises:
        UserError: when another process has the lock, with its name; when the folder cannot be written.
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
                f"--out {folder} is in use by {holder}: wait for it, stop it, or choose another --out"
            ) from error
        except OSError:
            # Some network file systems have no locks: run without one there.
            pass
        # On a full disk the lock works, but the file does not name the process.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a run. Raise `UserError` when the file holds none."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; choose another --out") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): choose another --out") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__} instead of an object: choose another --out")
    return value


@contextmanager
def cannot_write(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `UserError` that names `path` and the way out."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; all earlier files are intact; free disk space "
            "and run the same command again"
        ) from error
