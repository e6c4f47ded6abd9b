"""SIGTERM, which a preempted machine sends: save the last resume point and exit, whatever the main thread does."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from mnemonics_jax.runtime.signals import STOPPED, has_own_sigterm_handler, stop_reason

_leaves: list[Callable[[], str]] = []
"""The functions to call on SIGTERM for the runs in threads other than the main one."""


@contextmanager
def on_sigterm(leave: Callable[[], str]) -> Iterator[None]:
    """Handle SIGTERM while entered: call `leave`, print the message that it returns, and exit with `STOPPED`.

    A separate thread does this. Python would run a signal handler in the main thread between two instructions, and one
    compiled program may take minutes. Outside the main thread, `leave` is called only if the main thread has entered
    `on_sigterm_in_threads`. Where the program already has a SIGTERM handler, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        _leaves.append(leave)
        try:
            yield
        finally:
            _leaves.remove(leave)
        return
    if has_own_sigterm_handler():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    # C code writes the signal's number to the socket at once; Python's handler only has to exist.
    handler = signal.signal(signal.SIGTERM, lambda number, frame: None)
    thread = threading.Thread(target=_listen, args=(ours, leave), name="sigterm", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()
        ours.close()


@contextmanager
def on_sigterm_in_threads() -> Iterator[None]:
    """Handle SIGTERM while entered: call what other threads have passed to `on_sigterm`, and exit in the same way."""
    with on_sigterm(partial(_leave_all, _leaves)):
        yield


def _leave_all(leaves: list[Callable[[], str]]) -> str:
    messages: dict[str, None] = {}
    for leave in list(leaves):
        try:
            messages[leave()] = None
        # Save the other runs all the same.
        except Exception as error:
            messages[f"{stop_reason()}; saving failed: {error}"] = None
    return "\nmnemonics: ".join(messages) or stop_reason()


def _listen(ours: socket.socket, leave: Callable[[], str]) -> None:
    while received := ours.recv(1):
        if received[0] == signal.SIGTERM:
            try:
                message = leave()
            # The process has to exit now, whatever went wrong.
            except BaseException as error:
                message = f"{stop_reason()}; saving failed: {error}"
            print(f"mnemonics: {message}", file=sys.stderr, flush=True)
            os._exit(STOPPED)
