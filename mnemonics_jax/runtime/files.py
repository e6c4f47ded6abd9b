"""Files that a crash, a full disk or a second process cannot damage: atomic writes, a lock, and clear errors."""

import fcntl
import json
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnemonics_jax.runtime.errors import UserError

_HOLDER = re.compile(r"process \d+ on .*\n?")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_NOT_LEFT_BY_A_RUN = "was not written by a run: move it away, or choose another --out"


class LockedError(UserError):
    """An error for a folder that another process has locked."""


def user_cache_folder(name: str) -> Path:
    """Return the folder `name` in the user's cache for this program; it is created where it does not exist.

    Raises:
        OSError: when there is no home folder, when the folder cannot be created, and when other users can write to it:
            this process runs the compiled programs that it finds there.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        ours = Path(base or Path.home() / ".cache") / "mnemonics_jax"
    except RuntimeError as error:
        raise OSError("there is no home folder for a cache: set HOME or XDG_CACHE_HOME") from error
    folder = ours / name
    for path in (ours, folder):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not only_ours(path):
            raise OSError(
                f"other users can write to {path}, so it is not used: make it yours (chmod go-w), or set "
                "XDG_CACHE_HOME to a folder that only you can write to"
            )
    return folder


def only_ours(path: Path) -> bool:
    """Return whether a file or folder belongs to this user and no other user can write to it."""
    found = path.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def remove(path: Path) -> None:
    """Remove a file, a symbolic link (not its target), or a folder with all it holds; do nothing where none is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content`, text as UTF-8, so that a reader finds the old file or the whole new one, even after a crash."""
    draft = path.with_name(path.name + ".part")
    remove(draft)
    # Mode x follows no symbolic link that somebody has put there in the meantime.
    with draft.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with `write_atomically`."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def make_folder(folder: Path) -> None:
    """Create `folder` if it does not exist. Raise `UserError` when it cannot be created."""
    check_local("--out", folder)
    with _usable(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_name(folder: Path) -> None:
    """Raise `UserError` when no folder can have that name, such as one of more than 255 letters."""
    with _usable(folder), suppress(FileNotFoundError, NotADirectoryError):
        folder.stat()


def check_local(flag: str, path: Path | str) -> None:
    """Raise `UserError` when `path`, the value of `flag`, is an address such as s3://bucket/folder."""
    if _ADDRESS.match(str(path)):
        raise UserError(f"{flag} {path} is an address: give a folder, for example one where the bucket is mounted")


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {folder} cannot be used: {error.strerror}; choose a folder that can be written"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Create `folder` if it does not exist, and lock it for this process while entered.

    The lock is a lock of the kernel on the file `lock`, which names the process. It ends with the process, even after a
    crash. It yields a function that raises `UserError` when the folder has been removed or replaced since.

    Raises:
        LockedError: when another process has the lock, with its name.
        UserError: when the folder cannot be written; when `lock` is something else than the file of a lock.
    """
    make_folder(folder)
    descriptor = _open_lock(folder)
    try:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace")
        if holder and not _HOLDER.fullmatch(holder):
            raise UserError(f"{folder / 'lock'} {_NOT_LEFT_BY_A_RUN}")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = holder.strip() or "another process"
            raise LockedError(
                f"--out {folder} is in use by {holder}: wait for it, stop it, or choose another --out"
            ) from error
        except OSError:
            # Some network file systems have no locks: run without one there.
            pass
        # On a full disk the lock works, but the file does not name the process.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield lambda: _check_still_there(folder, descriptor)
    finally:
        os.close(descriptor)


def _open_lock(folder: Path) -> int:
    """Return the descriptor of the file `lock` in `folder`, and never follow a link or wait for a pipe."""
    path = folder / "lock"
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} {_NOT_LEFT_BY_A_RUN}")
    with _usable(folder):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def _check_still_there(folder: Path, descriptor: int) -> None:
    try:
        there = os.path.samestat(os.lstat(folder / "lock"), os.fstat(descriptor))
    except OSError:
        there = False
    if not there:
        raise UserError(
            f"--out {folder} was removed or replaced while the run was writing to it; nothing more is written: run the "
            "same command again, and leave the folder in place"
        )


def read_json(path: Path, way_out: str = "choose another --out") -> dict[str, Any]:
    """Return the object in a JSON file, by default of a run. Raise `UserError` with the `way_out` if it holds none."""
    # Reading a pipe would wait for ever.
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file: {way_out}")
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {way_out}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): {way_out}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__} instead of an object: {way_out}")
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
