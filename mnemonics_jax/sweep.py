"""A sweep: every combination of some settings' values, on several class orders, and what comes of each."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnemonics_jax.compare import Summary, mean_and_error
from mnemonics_jax.config import make_config
from mnemonics_jax.errors import UserError
from mnemonics_jax.files import write_json
from mnemonics_jax.footprint import outer_step_bytes
from mnemonics_jax.journal import read_json
from mnemonics_jax.overrides import has, override, pairs
from mnemonics_jax.plan import FAILURE, Job
from mnemonics_jax.state import make_setup

Settings = dict[str, str]

_MEMORY = "outer_step.json"
FIGURES = ("average_accuracy", "average_accuracy_exemplar_model", "forgetting", "seconds")
"""Keys of a point's row that are means over class orders, each with `_mean` and `_sem`."""


def parse_axes(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """FIELD=VALUE,VALUE... as values by field. Values of settings that are lists are written with colons, 8:16."""
    words = list(words)
    axes = {name.replace("-", "_"): tuple(text.split(",")) for name, text in pairs(words, "--sweep").items()}
    for word, (name, values) in zip(words, axes.items(), strict=False):
        if "" in values or len(set(values)) < len(values):
            raise UserError(f"--sweep {word}: give each value of {name} once, separated by commas")
    if not words or len(axes) < len(words):
        raise UserError(f"--sweep {' '.join(words)}: give each setting once, as exemplars.unroll_length=1,2,5")
    if "seed" in axes:
        raise UserError("--sweep seed: every point runs on the seeds 0 .. --seeds less one as it is")
    return axes


@dataclass(frozen=True)
class Sweep:
    """The product of `axes` (values by dotted name), each point on the seeds 0 .. seeds-1.

    `fixed` settings are the same everywhere. With `herding` each point is compared with herded exemplars under the same
    settings, those of learned exemplars alone left out.
    """

    axes: dict[str, tuple[str, ...]]
    preset: str
    method: str | None
    fixed: Settings
    seeds: int
    herding: bool = False

    def points(self) -> list[Settings]:
        """The settings of each point, the last axis fastest."""
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())]

    def jobs(self) -> list[Job]:
        """All runs. Seeds come outermost: what an interruption leaves has every point on the same class orders."""
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds}: at least one class order is needed")
        found: dict[str, Job] = {}
        for seed, point, kind in itertools.product(range(self.seeds), self.points(), self._kinds()):
            job = self.job(point, kind, seed)
            # Points that differ only in how exemplars are learned have one run with herding.
            found.setdefault(job.name, job)
        return list(found.values())

    def job(self, point: Settings, kind: str, seed: int) -> Job:
        """One run of a point with one kind of exemplars."""
        config = make_config(self.preset, self.method, kind)
        learned = make_config(self.preset, self.method, "mnemonics")
        settings = {**self.fixed, **point}
        override(learned, settings)
        settings = {name: text for name, text in settings.items() if has(config, name)}
        own = {name: text for name, text in point.items() if has(config, name)}
        prefix = "" if kind == "mnemonics" else f"{kind}/"
        return Job(f"{prefix}{label(own)}/seed{seed}", override(config, {**settings, "seed": str(seed)}))

    def _kinds(self) -> tuple[str, ...]:
        return ("herding", "mnemonics") if self.herding else ("mnemonics",)

    def rows(self, out: Path) -> list[dict[str, Any]]:
        """A row for each point: its settings, means over its finished runs, and the messages of those that failed."""
        return [self._row(point, out) for point in self.points()]

    def _row(self, point: Settings, out: Path) -> dict[str, Any]:
        folders = {seed: out / self.job(point, "mnemonics", seed).name for seed in range(self.seeds)}
        runs = _summaries(folders)
        row: dict[str, Any] = {"settings": point, "seeds": sorted(runs)}
        for key in FIGURES:
            row[key] = {seed: _figure(summary, key) for seed, summary in runs.items()}
            row[f"{key}_mean"], row[f"{key}_sem"] = mean_and_error([v for v in row[key].values() if v is not None])
        row["seconds_least"] = min(row["seconds"].values(), default=None)
        memories = [read_json(folder / _MEMORY) for folder in folders.values() if (folder / _MEMORY).exists()]
        row["outer_step_bytes"] = memories[0]["temporary_bytes"] if memories else None
        herded = {}
        if self.herding:
            herded = _summaries({seed: out / self.job(point, "herding", seed).name for seed in folders})
        for suffix, key in (("", "average_accuracy"), ("_exemplar_model", "average_accuracy_exemplar_model")):
            gains = [runs[seed][key] - herded[seed][key] for seed in sorted(runs.keys() & herded.keys())]
            row[f"gain{suffix}_mean"], row[f"gain{suffix}_sem"] = mean_and_error(gains)
        row["failures"] = {
            seed: read_json(folder / FAILURE)["message"]
            for seed, folder in folders.items()
            if (folder / FAILURE).exists()
        }
        return row


def label(settings: Settings) -> str:
    """A folder's name for a point: FIELD=VALUE, the field without the part of the configuration that it belongs to."""
    words = (f"{name.split('.')[-1]}={text}" for name, text in settings.items())
    return re.sub(r"[^\w.,=:+-]", "_", ",".join(words)) or "all"


def measure(job: Job, folder: Path) -> None:
    """Writes the memory of the compiled outer step into the run's folder, once; for seed 0, which stands for all."""
    if job.config.seed == 0 and job.config.exemplars.name == "mnemonics" and not (folder / _MEMORY).exists():
        write_json(folder / _MEMORY, {"temporary_bytes": outer_step_bytes(make_setup(job.config))})


def _summaries(folders: dict[int, Path]) -> dict[int, Summary]:
    return {seed: read_json(f / "summary.json") for seed, f in folders.items() if (f / "summary.json").exists()}


def _figure(summary: Summary, key: str) -> float | None:
    """Seconds are those of the whole run, whoever has trained its first phase."""
    shared = summary["shared_first_phase"] if key == "seconds" else None
    return summary[key] + shared["seconds"] if shared else summary[key]
