"""The one exception a user's mistake becomes."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: the command line prints its message, without a traceback, and exits with 2.

    The message names the offending value and the way out.
    """


def unknown_name(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for `name` not being one of the `known` names of a `what`, with the near matches."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UserError(f"unknown {what} {name!r}: {hint}known are {', '.join(known)}")
