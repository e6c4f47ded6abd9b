"""Finished runs as their folders tell them: summary, settings, and what was logged."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mnemonics_jax.compare import Summary
from mnemonics_jax.config import flatten
from mnemonics_jax.errors import UserError
from mnemonics_jax.figures import Training
from mnemonics_jax.journal import read_json, read_metrics

_NEEDED = ("dataset", "method", "exemplars", "seed", "accuracy", "average_accuracy", "accuracy_matrix", "seen_classes")
_SHORT = 28
"""Characters of a name that still fits beside others."""


@dataclass(frozen=True)
class Record:
    """A finished run: its folder and its summary."""

    folder: Path
    summary: Summary

    @property
    def arm(self) -> tuple[str, str | None]:
        """(method, exemplar kind)."""
        return self.summary["method"], self.summary["exemplars"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """config.json by dotted names, without the names of the arm and, where no exemplars are kept, theirs.

        Empty where there is none to read.
        """
        try:
            plain = flatten(read_json(self.folder / "config.json"))
        except UserError:
            return {}
        unused = ("method.name", "exemplars.name" if self.summary["exemplars"] else "exemplars.")
        return {name: value for name, value in plain.items() if not name.startswith(unused)}

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """What was logged; empty where there is none to read."""
        return read_metrics(self.folder / "metrics.jsonl")

    def named(self, name: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [event for event in self.events if event.get("event") == name]

    def training(self) -> Training | None:
        """Training loss and accuracy, all phases in a row; None where nothing was logged."""
        events = self.named("train")
        if not events:
            return None
        epochs, starts, before = [], [], 0.0
        for i, event in enumerate(events):
            if i == 0 or event.get("phase") != events[i - 1].get("phase"):
                before = epochs[-1] if epochs else 0.0
                starts.append(before)
            epochs.append(before + number(event, "epoch"))
        loss, accuracy = (np.array([number(event, key) for event in events]) for key in ("loss", "accuracy"))
        return Training(np.array(epochs), loss, accuracy, tuple(starts))

    def outer_losses(self) -> list[tuple[list[int], list[float]]]:
        """(outer steps, outer losses) of the new exemplars' first problem in each phase; none where none were logged.

        Problem 0 is that of all new classes or, where they are learned in groups, of the first group.
        """
        lines: list[tuple[list[int], list[float]]] = [([], []) for _ in self.summary["accuracy"]]
        events = [event for event in self.named("outer") if event.get("problem") == 0]
        for event in events:
            if event.get("phase") in range(len(lines)):
                steps, losses = lines[event["phase"]]
                steps.append(int(event["step"]))
                losses.append(number(event, "loss"))
        return lines if events else []


def find_records(folders: Sequence[Path]) -> list[Record]:
    """The finished runs in or below the folders, each once, in order of path.

    Raises `UserError` for a folder that does not exist or holds none, and for a summary that a run has not written.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: name one that a run or a comparison has written")
        paths = sorted(folder.rglob("summary.json"))
        if not paths:
            raise UserError(
                f"{folder} holds no finished run (no summary.json): let `mnemonics run` or `compare` end first"
            )
        found |= {path.resolve(): path for path in paths if path.resolve() not in found}
    records = []
    for path in found.values():
        summary = read_json(path)
        if missing := [key for key in _NEEDED if key not in summary]:
            raise UserError(f"{path} is not the summary of a run: it lacks {', '.join(missing)}; take it away")
        records.append(Record(path.parent, summary))
    return records


def told_apart(records: Sequence[Record]) -> list[Record]:
    """The records, those of one arm whose settings differ (the seed aside) renamed to arms of their own.

    The name tells the data set or the settings, as "mnemonics (unroll_length=5)", where that is short, else a number.
    """
    variants: dict[tuple[str, str | None], dict[str, Record]] = {}
    for record in records:
        variants.setdefault(record.arm, {}).setdefault(_without_seed(record), record)
    renamed = []
    for record in records:
        known, summary = variants[record.arm], record.summary
        if len(known) > 1:
            name = _variant_names(list(known.values()))[list(known).index(_without_seed(record))]
            key = "exemplars" if summary["exemplars"] else "method"
            summary = {**summary, key: f"{summary[key]} ({name})"}
        renamed.append(Record(record.folder, summary))
    return renamed


def _without_seed(record: Record) -> str:
    return json.dumps([record.summary["dataset"], {**record.settings, "seed": None}], sort_keys=True)


def _variant_names(variants: list[Record]) -> list[str]:
    """A short name for each of several ways in which one arm was run, all different."""
    names = sorted({name for variant in variants for name in variant.settings} - {"seed"})
    differing = [name for name in names if len({json.dumps(v.settings.get(name)) for v in variants}) > 1]
    by_setting = [", ".join(f"{n.rpartition('.')[2]}={v.settings.get(n)}" for n in differing) for v in variants]
    for named in ([str(variant.summary["dataset"]) for variant in variants], by_setting):
        if len(set(named)) == len(variants) and max(map(len, named)) <= _SHORT:
            return named
    return [f"variant {number}" for number in range(1, len(variants) + 1)]


def number(event: dict[str, Any], key: str) -> float:
    """A number of an event; NaN where it has none."""
    value = event.get(key)
    return float(value) if isinstance(value, int | float) else math.nan
