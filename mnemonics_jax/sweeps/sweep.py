"""A sweep: every combination of the values of some settings, on several class orders."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mnemonics_jax.config.parsing import has, override, pairs
from mnemonics_jax.config.presets import make_config
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.sweeps.job import Job, check_seeds

Settings = dict[str, str]


def parse_axes(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of each field in words of the form FIELD=VALUE,VALUE,...; a list value is written as 8:16.

    Raises:
        UserError: for fields or values that are empty or given twice, and for the field seed.
    """
    words = list(words)
    axes = {name.replace("-", "_"): tuple(text.split(",")) for name, text in pairs(words, "--sweep").items()}
    for word, (name, values) in zip(words, axes.items(), strict=False):
        if "" in values or len(set(values)) < len(values):
            raise UserError(f"--sweep {word}: give each value of {name} once, separated by commas")
    if not words or len(axes) < len(words):
        raise UserError(f"--sweep {' '.join(words)}: give each setting once, as exemplars.unroll_length=1,2,5")
    if "seed" in axes:
        raise UserError(
            "--sweep seed: every point runs on the seeds 0 .. SEEDS-1 already; leave it out and set --seeds SEEDS"
        )
    return axes


@dataclass(frozen=True)
class Sweep:
    """The grid of all combinations of `axes` (values by dotted name); each point runs on the seeds 0 .. seeds-1.

    `fixed` settings are the same at every point. With `herding`, each point also runs with herded exemplars and the
    same settings, except those that only learned exemplars have.
    """

    axes: dict[str, tuple[str, ...]]
    preset: str
    method: str | None
    fixed: Settings
    seeds: int
    herding: bool = False
    recipe: str = "default"

    def points(self) -> list[Settings]:
        """Return the settings of each point; the last axis varies fastest."""
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())]

    def jobs(self) -> list[Job]:
        """Return the jobs of all runs, seed by seed: an interrupted sweep has every point on the same class orders.

        Raises:
            UserError: for a number of seeds below 1, and for settings that do not exist or are out of range.
        """
        check_seeds("--seeds", self.seeds)
        found: dict[str, Job] = {}
        for seed, point, kind in itertools.product(range(self.seeds), self.points(), self._kinds()):
            job = self.job(point, kind, seed)
            # Points that differ only in the learning of exemplars share one run with herding.
            found.setdefault(job.name, job)
        return list(found.values())

    def job(self, point: Settings, kind: str, seed: int) -> Job:
        """Return the job of a point with one kind of exemplars and one seed."""
        config = make_config(self.preset, self.method, kind, self.recipe)
        learned = make_config(self.preset, self.method, "mnemonics", self.recipe)
        settings = {**self.fixed, **point}
        override(learned, settings)
        settings = {name: text for name, text in settings.items() if has(config, name)}
        own = {name: text for name, text in point.items() if has(config, name)}
        prefix = "" if kind == "mnemonics" else f"{kind}/"
        return Job(f"{prefix}{label(own)}/seed{seed}", override(config, {**settings, "seed": str(seed)}))

    def _kinds(self) -> tuple[str, ...]:
        return ("herding", "mnemonics") if self.herding else ("mnemonics",)


def label(settings: Settings) -> str:
    """Return the folder name of a point: FIELD=VALUE,..., each field without the section of the configuration."""
    words = (f"{name.split('.')[-1]}={text}" for name, text in settings.items())
    return re.sub(r"[^\w.,=:+-]", "_", ",".join(words)) or "all"
