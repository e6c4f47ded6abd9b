"""Processes that end with the one that started them."""

import multiprocessing
import os
import threading
import time
from functools import cache
from multiprocessing.connection import wait

_SECONDS = 1.0
"""How often a process looks for its parent where nothing tells it of the parent's end."""


@cache
def end_with_parent() -> None:
    """In a process that `multiprocessing` or joblib has started, end it once its parent is gone, even when killed.

    Without this, workers that nobody tells to stop wait for ever, with all the memory that they hold. In any other
    process it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.pid, parent.sentinel), name="parent", daemon=True).start()


def _follow(parent: int, sentinel: int | None) -> None:
    if sentinel is not None:
        # A pipe that the kernel closes with the parent.
        wait([sentinel])
    else:
        # joblib's processes have none.
        while os.getppid() == parent:
            time.sleep(_SECONDS)
    os._exit(1)
