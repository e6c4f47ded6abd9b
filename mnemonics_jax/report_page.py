"""report.html: finished runs side by side on one page that needs no other file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mnemonics_jax.compare import Arm, group_arms
from mnemonics_jax.console import Display
from mnemonics_jax.errors import UserError
from mnemonics_jax.evidence import gather
from mnemonics_jax.files import write_whole
from mnemonics_jax.html import Section, details, note, page, paragraph, picture, table
from mnemonics_jax.records import Record, told_apart
from mnemonics_jax.report import mean_and_error_text, write_report
from mnemonics_jax.report_sections import SECTIONS, Side

_STEPS_A_SIDE = 3
"""Steps of the progress bar for each arm: opening it, and two t-SNEs."""


def write_page(records: list[Record], out: Path, display: Display) -> list[dict[str, Any]]:
    """Writes comparison.json, accuracy.png, figures/ and report.html into the folder `out`; returns the comparison.

    What a run lacks (checkpoints, its data, a memory) is told on the page in place of what would be made of it.
    """
    records = told_apart(records)
    rows = write_report([record.summary for record in records], out)
    arms = group_arms([record.summary for record in records])
    display.task("report", _STEPS_A_SIDE * len(arms) + len(SECTIONS))
    done = 0

    def tick(steps: int = 1) -> None:
        nonlocal done
        done += steps
        display.advance(done)

    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    sides = _sides(arms, records, tick)
    sections = [
        Section("Results", _results(rows)),
        Section("Accuracy", [_accuracy(out / "accuracy.png")]),
        *(Section(title, make(sides, figures, tick)) for title, make in SECTIONS.items()),
        Section("Settings", _settings(arms, records)),
        Section("Runs", _runs(records)),
    ]
    datasets = ", ".join(sorted({str(record.summary["dataset"]) for record in records}))
    seeds = sorted({record.summary["seed"] for record in records})
    lead = (
        f"{len(records)} finished {'run' if len(records) == 1 else 'runs'}, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
    )
    html = page(f"Class-incremental learning on {datasets}", lead, sections)
    write_whole(out / "report.html", html)
    return rows


def _sides(arms: list[Arm], records: list[Record], tick: Callable[[], None]) -> list[Side]:
    """Each arm with one of its runs opened: that of the least seed which all arms of its method have, or its own."""
    sides = []
    for arm in arms:
        seeds = [{run["seed"] for run in other.runs} for other in arms if other.method == arm.method]
        common = set.intersection(*seeds) or {run["seed"] for run in arm.runs}
        record = next(r for r in records if r.summary is next(s for s in arm.runs if s["seed"] == min(common)))
        evidence, problem = None, ""
        try:
            evidence = gather(record)
        except UserError as error:
            problem = f"{arm.label}: {error}"
        sides.append(Side(arm, record, evidence, problem))
        tick()
    return sides


def _results(rows: list[dict[str, Any]]) -> list[str]:
    figures = {
        "average": "average_accuracy",
        "average Θᴱ": "average_accuracy_exemplar_model",
        "last": "last_accuracy",
        "forgetting": "forgetting",
    }
    gains = {"gain": "paired_gain_vs_herding", "gain Θᴱ": "paired_gain_exemplar_model_vs_herding"}
    body = [
        [row["method"], row["exemplars"] or "none", str(row["seeds"])]
        + [mean_and_error_text(row, name) for name in figures.values()]
        + [mean_and_error_text(row, name, sign="+").replace("-", "−") for name in gains.values()]
        for row in rows
    ]
    return [
        paragraph(
            "Accuracy in percent. Average: over the phases, of the accuracy on all classes seen so far. Last: after "
            "the last phase. Forgetting: points lost on the first phase's classes. Θᴱ is the model fitted to the "
            "exemplars alone. Gains are over the same method with herding, paired by class order."
        ),
        table(
            ["method", "exemplars", "orders", *figures, *gains],
            body,
            "Mean ± standard error over class orders; a single order has no error",
            words=2,
        ),
    ]


def _accuracy(path: Path) -> str:
    return picture(
        path,
        "Lines of accuracy against the number of classes seen, one for each arm",
        "Accuracy on all classes seen so far: means over class orders, bands of one standard error.",
    )


def _settings(arms: list[Arm], records: list[Record]) -> list[str]:
    """A table of the settings that differ between arms or class orders, and one of all others folded away."""
    settings = [[r.settings for r in records if any(r.summary is run for run in arm.runs)] for arm in arms]
    names = sorted({name for arm in settings for run in arm for name in run})
    if not names:
        return [note("No run has a config.json that can be read.")]
    differing, common = [], []
    for name in names:
        values = [list(dict.fromkeys(_plain(run[name]) for run in arm if name in run)) for arm in settings]
        cells = [", ".join(own) if own else "–" for own in values]
        if len({value for own in values for value in own}) > 1:
            differing.append([name, *cells])
        else:
            common.append([name, next(cell for cell in cells if cell != "–")])
    labels = [arm.label for arm in arms]
    parts = [paragraph("A dash: the arm has no such setting.")] if differing else []
    if differing:
        parts.append(table(["setting", *labels], differing, "Settings that differ", words=1 + len(labels)))
    shared = table(["setting", "value"], common, "Settings that all arms share, or all that have them", words=2)
    return [*parts, details(f"{len(common)} settings that do not differ", shared)]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).strip("[]")


def _runs(records: Sequence[Record]) -> list[str]:
    def cell(summary: dict[str, Any], key: str, form: str) -> str:
        return format(summary[key], form) if isinstance(summary.get(key), int | float) else "–"

    rows = [
        [
            str(record.folder),
            str(record.summary["method"]),
            str(record.summary["exemplars"] or "none"),
            str(record.summary["seed"]),
            cell(record.summary, "average_accuracy", ".2f"),
            cell(record.summary, "last_accuracy", ".2f"),
            cell(record.summary, "memory_bytes", ","),
            cell(record.summary, "seconds", ".0f"),
            cell(record.summary, "compilations", "d"),
            str(record.summary.get("backend", "–")),
        ]
        for record in records
    ]
    columns = ["folder", "method", "exemplars", "seed", "average", "last", "memory (bytes)", "seconds", "programs"]
    return [table([*columns, "backend"], rows, "The runs of this report; programs: compiled by XLA", words=3)]
