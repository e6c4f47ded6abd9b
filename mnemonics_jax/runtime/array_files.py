"""Trees of arrays on disk, written and read by Orbax, by one process on its own."""

import glob
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mnemonics_jax.runtime.folders import CorruptedError

# Orbax numbers its saves for the whole process: two at the same time wait for each other's signals for ever.
_saving = threading.Lock()


def save_arrays(folder: Path, arrays: Any) -> None:
    """Write a tree of arrays into the new folder `folder`.

    Raises:
        OSError: when the arrays cannot be written.
    """
    # Where Orbax cannot create a folder, a thread of it keeps the process from ending for minutes.
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Host arrays, since each of several processes would write only a share of an array on their devices.
    arrays = jax.tree.map(np.asarray, arrays)
    try:
        with _saving, _without_wildcards(folder) as path, _checkpointer() as orbax:
            orbax.save(path, arrays)
            orbax.wait_until_finished()
    # On a full disk Orbax raises ValueError, OSError or an error of JAX, depending on the file.
    except Exception as error:
        raise OSError(str(error)) from error


def restore_arrays(folder: Path, like: Any) -> Any:
    """Return the tree of host arrays in `folder`; `like` has its structure, shapes and dtypes.

    Raises:
        CorruptedError: when `folder` holds no such tree.
    """
    try:
        with _without_wildcards(folder) as path, _checkpointer() as orbax:
            return jax.tree.map(np.asarray, orbax.restore(path, like))
    # Orbax raises many kinds of errors here, some of them over pages.
    except Exception as error:
        why = str(error).partition("\n")[0][:200]
        raise CorruptedError(f"{folder} does not hold the arrays that are expected ({why})") from error


@contextmanager
def _without_wildcards(folder: Path) -> Iterator[Path]:
    """Yield a path of `folder` without *, ? and [: Orbax takes a path for a pattern, and finds nothing by `a[1]`."""
    folder = folder.absolute()
    if not glob.has_magic(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "parent"
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


def _checkpointer() -> ocp.StandardCheckpointer:
    """Return an Orbax checkpointer that waits for no other process."""
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=options)
