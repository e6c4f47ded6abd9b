"""Download of a publisher's archive: resumed after an interruption, checked by size and checksum."""

import fcntl
import hashlib
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import user_cache_folder

_CHUNK = 1 << 20
_TIMEOUT = 30.0
"""Seconds without any byte from the server until a download counts as broken off."""


@dataclass(frozen=True)
class Archive:
    """A file that its publisher offers: address, bytes, and MD5 as the publisher or its users give it."""

    url: str
    size: int
    md5: str

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[1]


def data_folder(path: str | None) -> Path:
    """Return the folder of downloaded archives: `path`, or one in the user's cache."""
    return Path(path).expanduser() if path else user_cache_folder("data")


def fetch(archive: Archive, folder: Path) -> Path:
    """Return the path of `archive` in `folder`; download it if it is not there.

    What an interrupted download has left is kept in NAME.part, and the next call goes on from there. Of several
    processes one downloads, and the others wait.

    Raises:
        UserError: when the file cannot be downloaded, with the address and the place to put it by hand; when a file is
            there already that is another.
    """
    path = folder / archive.name
    if path.exists():
        if _md5(path) != archive.md5:
            raise UserError(f"{path} is not the file of {archive.url}: its checksum is another; remove it")
        return path
    part = path.with_name(f"{archive.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():
                return path
            _download(archive, file)
            file.flush()
            if _md5(part) != archive.md5:
                part.unlink()
                raise UserError(_by_hand(archive, path, "what came has another checksum"))
            part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(_by_hand(archive, path, str(reason))) from error
    return path


def _download(archive: Archive, file: IO[bytes]) -> None:
    """Append to `file` what it lacks of the archive.

    Raises:
        OSError: when the connection fails or ends early.
    """
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    done = file.seek(0, 2)
    if done >= archive.size:
        return
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={done}-"} if done else {})
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"downloading {archive.url}, {archive.size / 1e6:.0f} MB", soft_wrap=True, highlight=False)
    columns = (TextColumn("downloading {task.description}"), DownloadColumn(), TransferSpeedColumn())
    shown = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer, shown as bar:
        if done and answer.status != 206:  # the server sends the whole file again
            file.truncate(0)
            done = 0
        task = bar.add_task(archive.name, total=archive.size, completed=done)
        # One byte more than the archive has tells that it is another file.
        while done <= archive.size and (chunk := answer.read(min(_CHUNK, archive.size + 1 - done))):
            file.write(chunk)
            done += len(chunk)
            bar.update(task, completed=done)
    if done < archive.size:
        raise ConnectionError(f"the connection ended after {done:,} of {archive.size:,} bytes")


def _by_hand(archive: Archive, path: Path, reason: str) -> str:
    return (
        f"{archive.url} cannot be downloaded ({reason}): run the same command again, which goes on where the download "
        f"stopped, or get the file on another machine and put it at {path}"
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
