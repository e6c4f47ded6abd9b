"""What stops a program: SIGTERM, at any time, and Ctrl-C, only where nothing is half done."""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPED = 75
"""Exit status of a run that was ended by SIGTERM and can go on: "try again later" in sysexits.h."""

_NAME = "name_of_program"
_reason = "stopped by SIGTERM"


@contextmanager
def sigterm_status(name: str) -> Iterator[None]:
    """End the program `name` with the status `STOPPED` and one line when SIGTERM comes while entered.

    This is for the time before and after a run, when there is nothing to save. A handler of the program itself stays.
    """
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        # Not by an exception: an import or a library may take one for an error of its own.
        os.write(2, f"{name}: {stop_reason()}; the same command goes on from what is saved\n".encode())
        os._exit(STOPPED)

    setattr(leave, _NAME, name)
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stop(reason: str) -> None:
    """End the program from any thread as SIGTERM would, with `reason` in its message."""
    global _reason
    _reason = reason
    handler = signal.getsignal(signal.SIGTERM)
    # Python would run that handler in the main thread, which may wait for something that never comes.
    if callable(handler) and hasattr(handler, _NAME):
        handler(signal.SIGTERM, None)
    os.kill(os.getpid(), signal.SIGTERM)


def stop_reason() -> str:
    """Return why the program is being stopped."""
    return _reason


def has_own_sigterm_handler() -> bool:
    """Return whether the program, and not this module, has set a handler of SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    return handler is not signal.SIG_DFL and not hasattr(handler, _NAME)


@contextmanager
def interrupted_destructors() -> Iterator[None]:
    """Let Ctrl-C stop the program where it meets a destructor, in which Python prints it and goes on."""
    before = sys.unraisablehook

    def again(caught: Any) -> None:
        if caught.exc_type is KeyboardInterrupt:
            # Not at once: this function itself would be stopped, and what it raises is ignored too.
            threading.Timer(0.01, _thread.interrupt_main).start()
        else:
            before(caught)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back while entered, and raise it as `KeyboardInterrupt` afterwards.

    Python raises it between any two instructions; inside a lock, or where a thread starts, that leaves half of a
    change. Outside the main thread, where it is never raised, this does nothing.
    """
    before = signal.getsignal(signal.SIGINT)
    if not _in_main_thread() or not callable(before):
        yield
        return
    pressed: list[tuple[Any, ...]] = []
    signal.signal(signal.SIGINT, lambda *arguments: pressed.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        before(*pressed[0])


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
