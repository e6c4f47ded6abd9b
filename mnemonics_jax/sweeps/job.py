"""A run among many."""

from dataclasses import dataclass

from mnemonics_jax.config.config import Config


@dataclass(frozen=True)
class Job:
    """A run, and the name of its folder: a path relative to the folder of all jobs."""

    name: str
    config: Config
