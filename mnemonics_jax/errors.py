"""The exceptions a run ends with: a user's mistake, and numbers gone wrong."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: the command line prints its message, without a traceback, and exits with 2.

    The message names the offending value and the way out.
    """


class NumbersError(Exception):
    """A loss or gradient that is not finite. The message names stage and step; the run adds phase and checkpoint.

    `advice` says what to change.
    """

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class RunsFailedError(Exception):
    """Some of several runs failed while the others went on. The message names them."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for `name` not being one of the `known` names of a `what`, with the near matches."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UserError(f"unknown {what} {name!r}: {hint}known are {', '.join(known)}")
