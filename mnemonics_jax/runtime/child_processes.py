"""Processes that end with the one that started them."""

import multiprocessing
import os
import threading
from functools import cache
from multiprocessing.connection import wait


@cache
def end_with_parent() -> None:
    """In a process that `multiprocessing` has started, end it once its parent is gone, even when that was killed.

    Without this, workers that nobody tells to stop wait for ever, with all the memory that they hold. In any other
    process it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), name="parent", daemon=True).start()


def _follow(sentinel: int) -> None:
    # A pipe that the kernel closes with the parent.
    wait([sentinel])
    os._exit(1)
