"""How programs end: a user's mistake, numbers gone wrong and Ctrl-C each with a line and an exit status."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mnemonics_jax.errors import NumbersError, RunsFailedError, UserError


@contextmanager
def ending(name: str) -> Iterator[None]:
    """Turns the exceptions that the program `name` may end with into one line on stderr and an exit status.

    2 for a user's mistake, 3 for numbers gone wrong or runs that failed, 130 for Ctrl-C.
    """
    # Errors of Orbax come back as ours; absl would print each with its traceback first.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        yield
    except UserError as error:
        _fail(name, str(error), 2)
    except (NumbersError, RunsFailedError) as error:
        _fail(name, str(error), 3)
    except KeyboardInterrupt:
        _fail(name, "interrupted; the same command goes on from the last checkpoint", 130)


def _fail(name: str, message: str, status: int) -> None:
    print(f"{name}: {message}", file=sys.stderr)
    sys.exit(status)
