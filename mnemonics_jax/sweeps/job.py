"""A run among many."""

from dataclasses import dataclass

from mnemonics_jax.config.config import Config
from mnemonics_jax.runtime.errors import UserError

_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Job:
    """A run, and the name of its folder: a path relative to the folder of all jobs."""

    name: str
    config: Config


def check_seeds(flag: str, seeds: int) -> None:
    """Raise `UserError` when `seeds`, the value of `flag`, is not a possible number of class orders."""
    if not 1 <= seeds <= _MOST_SEEDS:
        raise UserError(f"{flag} {seeds}: give at least 1 and at most {_MOST_SEEDS}")
