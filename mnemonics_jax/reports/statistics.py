"""Statistics over several runs: arms, means, standard errors and paired differences."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mnemonics_jax.exemplars import EXEMPLARS
from mnemonics_jax.methods import METHODS
from mnemonics_jax.runs.summary import Summary

FORGETTING = {
    "forgetting (base classes)": "forgetting",
    "forgetting (average)": "average_forgetting",
    "backward transfer": "backward_transfer",
}
"""What a run loses of its earlier classes: the names in tables and figures, and the keys of a summary."""
EXEMPLAR_MODEL = "accuracy_exemplar_model"
"""The key of a summary under which it has the accuracies of Θᴱ, the model fitted to the exemplars alone."""


@dataclass(frozen=True)
class Arm:
    """One method with one exemplar kind (None if the method keeps no exemplars), and its runs in order of seed."""

    method: str
    exemplars: str | None
    runs: tuple[Summary, ...]

    @property
    def label(self) -> str:
        """The name of the arm in tables and legends."""
        return f"{self.method} {self.exemplars}" if self.exemplars else self.method

    def values(self, key: str) -> dict[int, float]:
        """Return one value of the summary by seed, for the runs that have it."""
        return {summary["seed"]: summary[key] for summary in self.runs if summary.get(key) is not None}


def group_arms(summaries: list[Summary]) -> list[Arm]:
    """Group runs by method and exemplar kind, in the order of the registries; unknown names come last."""

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
    """Return the mean and its standard error (sample standard deviation / √n); None where there are too few values."""
    if not values:
        return None, None
    sample: Float[np.ndarray, " value"] = np.asarray(values, np.float64)
    error = float(sample.std(ddof=1) / np.sqrt(len(sample))) if len(sample) > 1 else None
    return float(sample.mean()), error


def mean_of_runs(runs: Collection[Summary], key: str) -> tuple[float | None, float | None]:
    """Return the mean over runs of one value of their summaries, and its standard error.

    Both are None if a run lacks the value, as one of an older version may: the row would name more runs than it is of.
    """
    values = [summary[key] for summary in runs if summary.get(key) is not None]
    return mean_and_error(values if len(values) == len(runs) else [])


def models_differ(runs: Collection[Summary]) -> bool:
    """Return whether Θᴱ is anywhere more or less accurate than Θ, by what two decimals show.

    The two are the same where the method predicts from the exemplars, as iCaRL does.
    """
    pairs = [(run["accuracy"], run[EXEMPLAR_MODEL]) for run in runs if run.get(EXEMPLAR_MODEL)]
    return any(abs(one - other) >= 0.005 for pair in pairs for one, other in zip(*pair, strict=False))


def paired(arm: Arm, other: Arm, key: str) -> list[float]:
    """Return the differences arm − other for the class orders that both have."""
    mine, theirs = arm.values(key), other.values(key)
    return [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]


def comparison(summaries: list[Summary]) -> list[dict[str, Any]]:
    """Return the rows of comparison.json, one for each arm.

    Gains are differences to the same method with herding, paired by class order. Accuracies are in percent, gains,
    forgetting and backward transfer in percentage points.
    """
    arms = group_arms(summaries)
    rows = []
    for arm in arms:
        row: dict[str, Any] = {"method": arm.method, "exemplars": arm.exemplars, "seeds": len(arm.runs)}
        for key in ("average_accuracy", "average_accuracy_exemplar_model", "last_accuracy", *FORGETTING.values()):
            row[f"{key}_mean"], row[f"{key}_sem"] = mean_of_runs(arm.runs, key)
        herding = next((a for a in arms if (a.method, a.exemplars) == (arm.method, "herding")), None)
        for suffix, key in (("", "average_accuracy"), ("_exemplar_model", "average_accuracy_exemplar_model")):
            gains = paired(arm, herding, key) if herding and herding is not arm else []
            name = f"paired_gain{suffix}_vs_herding"
            row[f"{name}_mean"], row[f"{name}_sem"] = mean_and_error(gains)
        rows.append(row)
    return rows
