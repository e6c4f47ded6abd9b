"""The exceptions that end a run: a mistake by the user, or a number that is not finite."""

import difflib
import errno
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from mnemonics_jax.runtime import peers
from mnemonics_jax.runtime.signals import STOPPED, interrupted_destructors, sigterm_status

_NOTICED_WITHIN = 2.0
"""Seconds in which the end of another process is noticed, even when an error that it causes comes first."""
_MANY = 20
"""Most names that a message lists beside a suggestion."""
_INTERRUPTED = "interrupted; the same command goes on from the last checkpoint"


class UserError(Exception):
    """A mistake that the user can correct. The message names the offending value and the way out.

    The command line prints the message without a traceback and exits with status 2.
    """


class NumbersError(Exception):
    """A loss or gradient that is not finite. The message names stage and step; the run adds phase and checkpoint.

    `advice` says which setting to change.
    """

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice

    def __reduce__(self) -> tuple:
        # By default pickle would pass only the message, and exceptions travel between processes by pickle.
        return NumbersError, (str(self), self.advice)


class NotFinite(NamedTuple):
    """The words of a `NumbersError`: what is not finite, what a step is called, and what to change."""

    what: str
    step: str
    advice: str

    def at(self, step: int, total: int) -> NumbersError:
        """Return the error for step number `step`, counted from 1, of `total`."""
        return NumbersError(f"{self.what} is not finite at {self.step} {step} of {total}", self.advice)


class RunsFailedError(Exception):
    """An error after several runs of which some failed. The message names those."""


def check_new(what: str, name: str, known: Iterable[str]) -> None:
    """Raise `UserError` when `name` is among the `known` names of a `what`, such as "a method"."""
    if name in known:
        raise UserError(f"there is {what} {name!r} already: give yours another name")


def unknown_name(what: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a `name` that is not among the `known` names of a `what`.

    It suggests similar names, and lists all unless they are many and one of them is similar.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.9) or difflib.get_close_matches(name, known, cutoff=0.5)
    parts = [f"did you mean {' or '.join(repr(n) for n in near)}?"] if near else []
    if not near or len(known) <= _MANY:
        parts.append(f"known are {', '.join(known)}")
    return UserError(f"unknown {what} {name!r}: {' '.join(parts)}")


@contextmanager
def exit_status(name: str) -> Iterator[None]:
    """Turn an exception of the program `name` into one line on stderr and an exit status.

    The status is 2 for `UserError` and for settings that need more memory than there is, 3 for `NumbersError` and
    `RunsFailedError`, 75 for SIGTERM and where another process of the run is gone, and 130 for Ctrl-C. Characters that
    a terminal does not have become question marks.
    """
    # We turn errors of Orbax into our own; absl would print each with its traceback first.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with sigterm_status(name), interrupted_destructors():
            yield
    except UserError as error:
        _fail(name, str(error), 2)
    except (NumbersError, RunsFailedError) as error:
        _fail(name, str(error), 3)
    except Exception as error:
        if _was_interrupted(error):
            _fail(name, _INTERRUPTED, 130)
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(128 + signal.SIGPIPE)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            _fail(name, f"{error.filename}: {error.strerror}: choose a shorter one", 2)
        # What JAX raises where another process of the run is gone says little.
        if lost := peers.lost_peer(_NOTICED_WITHIN):
            _fail(name, f"{lost}; the same command in all processes goes on from the last checkpoint", STOPPED)
        # JAX raises an error of its own, with the figures in the first line.
        if not isinstance(error, MemoryError) and not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        why = str(error).partition("\n")[0][:200]
        _fail(name, f"the memory is not enough for these settings ({why}): make batches, chunks or images smaller", 2)
    except KeyboardInterrupt:
        _fail(name, _INTERRUPTED, 130)


def _was_interrupted(error: BaseException | None) -> bool:
    """Return whether Ctrl-C has caused the error: inside of a class statement, Python makes a RuntimeError of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def _nobody_reads() -> bool:
    """Return whether the reader of standard output is gone, as in `mnemonics --help | head`; if so, write no more."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):
        return False
    # Python flushes once more at the end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _fail(name: str, message: str, status: int) -> None:
    print(f"{name}: {message}", file=sys.stderr)
    # Where Ctrl-C has met code made from text, Python is to end by SIGINT all the same, until it runs such code again.
    eval("None")
    peers.leave(status)
    sys.exit(status)
