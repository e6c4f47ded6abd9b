"""Finished runs, read from their folders: summary, settings and logged events."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mnemonics_jax.config.config import flatten
from mnemonics_jax.reports.figures import Training
from mnemonics_jax.reports.summary_check import check_summary
from mnemonics_jax.reports.summary_files import summary_files
from mnemonics_jax.runs.metrics_log import read_metrics
from mnemonics_jax.runs.summary import Summary, changed_results
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import read_json

_SHORT = 28
"""Most characters of a name that still fits beside others."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its folder and its summary."""

    folder: Path
    summary: Summary

    @property
    def arm(self) -> tuple[str, str | None]:
        """The method and the exemplar kind (None without exemplars)."""
        return self.summary["method"], self.summary["exemplars"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings in config.json by dotted name; empty if the file cannot be read or has changed since the run.

        The names of method and exemplar kind are left out, and all settings of exemplars if the run keeps none.
        """
        if "config.json" in self._changed:
            return {}
        try:
            plain = flatten(read_json(self.folder / "config.json"))
        except UserError:
            return {}
        unused = ("record.", "method.name", "exemplars.name" if self.summary["exemplars"] else "exemplars.")
        return {name: value for name, value in plain.items() if not name.startswith(unused)}

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The logged events of phases; empty if there are none to read, or others than when the run finished."""
        events = [] if "metrics.jsonl" in self._changed else read_metrics(self.folder / "metrics.jsonl")
        return [event for event in events if type(event.get("phase")) is int]

    @cached_property
    def _changed(self) -> set[str]:
        return changed_results(self.folder)

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the logged events of that name."""
        return [event for event in self.events if event.get("event") == name]

    def training(self) -> Training | None:
        """Return training loss and accuracy over all phases; None if nothing was logged."""
        events = self.named("train")
        if not events:
            return None
        epochs, starts, before = [], [], 0.0
        for i, event in enumerate(events):
            if i == 0 or event["phase"] != events[i - 1]["phase"]:
                before = epochs[-1] if epochs else 0.0
                starts.append(before)
            epochs.append(before + number(event, "epoch"))
        loss, accuracy = (np.array([number(event, key) for event in events]) for key in ("loss", "accuracy"))
        return Training(np.array(epochs), loss, accuracy, tuple(starts))

    def outer_losses(self) -> list[tuple[list[float], list[float]]]:
        """Return (outer steps, outer losses) of the new exemplars' first problem in each phase; [] if none were logged.

        Problem 0 covers all new classes or, if exemplars are learned in groups of classes, the first group.
        """
        lines: list[tuple[list[float], list[float]]] = [([], []) for _ in self.summary["accuracy"]]
        events = [event for event in self.named("outer") if event.get("problem") == 0]
        for event in events:
            if event["phase"] in range(len(lines)):
                steps, losses = lines[event["phase"]]
                steps.append(number(event, "step"))
                losses.append(number(event, "loss"))
        return lines if events else []


def find_finished_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Return the finished runs in or below the folders, each once, in order of path.

    Raises:
        UserError: if a folder does not exist or holds no finished run, or if a summary.json does not come from a run.
    """
    return [FinishedRun(path.parent, read_finished(path)) for path in summary_files(folders)]


def read_finished(path: Path) -> Summary:
    """Return the content of the summary.json `path`.

    Raises:
        UserError: when it has changed since the run, or does not come from a run.
    """
    if "summary.json" in changed_results(path.parent):
        raise UserError(f"{path} has changed since the run: `mnemonics run` writes it again from the checkpoints")
    summary = read_json(path)
    check_summary(path, summary)
    return summary


def label_variants(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Return the runs; if runs of one arm differ in settings other than the seed, rename them to separate arms.

    The new name contains the data set or the settings that differ, as in "mnemonics (unroll_length=5)", if that is
    short; otherwise a number.
    """
    variants: dict[tuple[str, str | None], dict[str, FinishedRun]] = {}
    for run in runs:
        variants.setdefault(run.arm, {}).setdefault(_without_seed(run), run)
    renamed = []
    for run in runs:
        known, summary = variants[run.arm], run.summary
        if len(known) > 1:
            name = _variant_names(list(known.values()))[list(known).index(_without_seed(run))]
            key = "exemplars" if summary["exemplars"] else "method"
            summary = {**summary, key: f"{summary[key]} ({name})"}
        renamed.append(FinishedRun(run.folder, summary))
    return renamed


def _without_seed(run: FinishedRun) -> str:
    return json.dumps([run.summary["dataset"], {**run.settings, "seed": None}], sort_keys=True)


def _variant_names(variants: list[FinishedRun]) -> list[str]:
    """Return a short name, different from the others, for each variant of one arm."""
    names = sorted({name for variant in variants for name in variant.settings} - {"seed"})
    differing = [name for name in names if len({json.dumps(v.settings.get(name)) for v in variants}) > 1]
    by_setting = [", ".join(f"{n.rpartition('.')[2]}={v.settings.get(n)}" for n in differing) for v in variants]
    for named in ([str(variant.summary["dataset"]) for variant in variants], by_setting):
        if len(set(named)) == len(variants) and max(map(len, named)) <= _SHORT:
            return named
    return [f"variant {number}" for number in range(1, len(variants) + 1)]


def number(event: dict[str, Any], key: str) -> float:
    """Return a number of an event; NaN if it has none under `key`, or an integer beyond all floats."""
    return _float(event.get(key))


def numbers(event: dict[str, Any], key: str) -> list[float]:
    """Return the numbers in a list of an event; none if it has no list under `key`."""
    values = event.get(key)
    found = [_float(value) for value in values] if isinstance(values, list) else []
    return [value for value in found if not math.isnan(value)]


def _float(value: Any) -> float:
    with suppress(OverflowError):
        return float(value) if isinstance(value, int | float) else math.nan
    return math.nan
