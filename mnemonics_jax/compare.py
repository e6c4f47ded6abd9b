"""Many runs side by side: every method with every exemplar kind on the same class orders, and what they add up to."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mnemonics_jax.checkpoint import SaveConfig
from mnemonics_jax.config import Config
from mnemonics_jax.console import Display
from mnemonics_jax.errors import UserError
from mnemonics_jax.exemplars import EXEMPLARS
from mnemonics_jax.methods import METHODS
from mnemonics_jax.plan import Job, execute

Summary = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One method with one exemplar kind (None for a method that keeps no exemplars), and its runs in order of seed."""

    method: str
    exemplars: str | None
    runs: tuple[Summary, ...]

    @property
    def label(self) -> str:
        """What the arm is called in tables and legends."""
        return f"{self.method} {self.exemplars}" if self.exemplars else self.method

    def values(self, key: str) -> dict[int, float]:
        """One figure of the summary, by seed."""
        return {summary["seed"]: summary[key] for summary in self.runs if summary[key] is not None}


def compare(
    make: Callable[[str, str, int], Config],
    methods: list[str],
    kinds: list[str],
    seeds: int,
    out: Path,
    display: Display,
    save: SaveConfig | None = None,
    *,
    vmap_seeds: bool = False,
) -> list[Summary]:
    """Runs every arm for seeds 0 .. seeds-1, each in a folder of its own below `out`; returns the summaries.

    `make(method, kind, seed)` gives the configuration. Finished runs are not run again. A method without memory is run
    once a seed, whatever the kinds. Runs that start the same share their first phase, with `vmap_seeds` the seeds of an
    arm run at once, and a run that fails leaves the others to go on (`plan.execute`). Raises `UserError` for what
    cannot work before the first run trains, and `RunsFailedError` at the end when one has failed.
    """
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least one class order is needed")
    arms = dict.fromkeys(
        (method, kind if METHODS[method].uses_memory else kinds[0])
        for method, kind in itertools.product(methods, kinds)
    )
    configs = {arm: [make(*arm, seed) for seed in range(seeds)] for arm in arms}
    jobs = []
    # Seeds outermost: an interrupted comparison has every arm on the same class orders.
    for seed, arm in itertools.product(range(seeds), arms):
        method, kind = arm
        name = f"{method}-{kind}" if METHODS[method].uses_memory else method
        jobs.append(Job(f"{name}-seed{seed}", configs[arm][seed]))
    return execute(jobs, out, display, save, vmap_seeds=vmap_seeds).complete(out)


def group_arms(summaries: list[Summary]) -> list[Arm]:
    """Runs grouped by method and exemplar kind, in the order of the registries; names they lack come last."""

    def rank(name: str | None, registry: list[str]) -> tuple[int, str]:
        return (registry.index(name) if name in registry else len(registry), name or "")

    keys = {(s["method"], s["exemplars"]) for s in summaries}
    ranked = sorted(keys, key=lambda key: (rank(key[0], list(METHODS)), rank(key[1], list(EXEMPLARS))))
    return [
        Arm(
            *key,
            tuple(sorted((s for s in summaries if (s["method"], s["exemplars"]) == key), key=lambda s: s["seed"])),
        )
        for key in ranked
    ]


def mean_and_error(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and standard error of the mean (sample standard deviation / √n); None where there are too few values."""
    if not values:
        return None, None
    sample: Float[np.ndarray, "value"] = np.asarray(values, np.float64)
    error = float(sample.std(ddof=1) / np.sqrt(len(sample))) if len(sample) > 1 else None
    return float(sample.mean()), error


def paired(arm: Arm, other: Arm, key: str) -> list[float]:
    """Differences arm − other on the class orders that both have."""
    mine, theirs = arm.values(key), other.values(key)
    return [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]


def comparison(summaries: list[Summary]) -> list[dict[str, Any]]:
    """comparison.json: one row for each arm, gains over the same method with herding paired by class order."""
    arms = group_arms(summaries)
    rows = []
    for arm in arms:
        row: dict[str, Any] = {"method": arm.method, "exemplars": arm.exemplars, "seeds": len(arm.runs)}
        for key in ("average_accuracy", "average_accuracy_exemplar_model", "last_accuracy", "forgetting"):
            row[f"{key}_mean"], row[f"{key}_sem"] = mean_and_error(list(arm.values(key).values()))
        herding = next((a for a in arms if (a.method, a.exemplars) == (arm.method, "herding")), None)
        for suffix, key in (("", "average_accuracy"), ("_exemplar_model", "average_accuracy_exemplar_model")):
            gains = paired(arm, herding, key) if herding and herding is not arm else []
            name = f"paired_gain{suffix}_vs_herding"
            row[f"{name}_mean"], row[f"{name}_sem"] = mean_and_error(gains)
        rows.append(row)
    return rows
