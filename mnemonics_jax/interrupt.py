"""SIGTERM, as a machine that is taken away sends it: save the last point and leave, whatever the main thread does."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

STOPPED = 75
"""Exit status of a run that SIGTERM has ended after saving: "try again later" in sysexits.h."""

_leaves: list[Callable[[], str]] = []
"""What the runs in other threads than the main one do on SIGTERM."""


@contextmanager
def on_sigterm(leave: Callable[[], str]) -> Iterator[None]:
    """While entered, SIGTERM calls `leave`, prints the message that it returns, and ends the process with `STOPPED`.

    That happens in a thread of its own: Python runs signal handlers in the main thread between two instructions, and a
    compiled program may hold that for minutes. Outside of the main thread `leave` is called where that has entered
    `on_sigterm_in_threads`. Does nothing where the program that uses the library has a handler of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        _leaves.append(leave)
        try:
            yield
        finally:
            _leaves.remove(leave)
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    # C code writes the signal's number to the socket the moment it arrives; the handler only has to exist.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    thread = threading.Thread(target=_listen, args=(ours, leave), name="sigterm", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()
        ours.close()


@contextmanager
def on_sigterm_in_threads() -> Iterator[None]:
    """While entered, SIGTERM calls what other threads have given to `on_sigterm`, and ends the process as it does."""
    with on_sigterm(partial(_leave_all, _leaves)):
        yield


def _leave_all(leaves: list[Callable[[], str]]) -> str:
    messages: dict[str, None] = {}
    for leave in list(leaves):
        try:
            messages[leave()] = None
        # The others are to be saved all the same.
        except Exception as error:
            messages[f"stopped by SIGTERM; saving failed: {error}"] = None
    return "\nmnemonics: ".join(messages) or "stopped by SIGTERM"


def _listen(ours: socket.socket, leave: Callable[[], str]) -> None:
    while received := ours.recv(1):
        if received[0] == signal.SIGTERM:
            try:
                message = leave()
            # Whatever went wrong, the process was asked to end, and is no longer trusted to end by itself.
            except BaseException as error:
                message = f"stopped by SIGTERM; saving failed: {error}"
            print(f"mnemonics: {message}", file=sys.stderr, flush=True)
            os._exit(STOPPED)
