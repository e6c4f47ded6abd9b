"""report.html: finished runs side by side on one page that needs no other file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mnemonics_jax.reports.figure_data import load_figure_data
from mnemonics_jax.reports.finished_runs import FinishedRun, label_variants
from mnemonics_jax.reports.html import Section, details, note, page, paragraph, picture, table
from mnemonics_jax.reports.sections import SECTIONS, Side
from mnemonics_jax.reports.statistics import FORGETTING, Arm, group_arms
from mnemonics_jax.reports.tables import mean_and_error_text, write_report
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import write_atomically
from mnemonics_jax.runtime.progress import Display

_STEPS_A_SIDE = 3
"""Steps of the progress bar for each arm: loading its figure data, and two t-SNEs."""


def write_page(runs: list[FinishedRun], out: Path, display: Display) -> list[dict[str, Any]]:
    """Write comparison.json, accuracy.png, figures/ and report.html into `out`; return the rows of the comparison.

    If a run lacks checkpoints, its data or a memory, the page says so in place of the figures made from them.

    Args:
        runs: finished runs, of any arms and seeds.
        out: an existing folder.
        display: shows the progress.
    """
    runs = label_variants(runs)
    rows = write_report([run.summary for run in runs], out)
    arms = group_arms([run.summary for run in runs])
    display.task("report", _STEPS_A_SIDE * len(arms) + len(SECTIONS))
    done = 0

    def tick(steps: int = 1) -> None:
        nonlocal done
        done += steps
        display.advance(done)

    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    sides = _sides(arms, runs, tick)
    sections = [
        Section("Results", _results(rows)),
        Section("Accuracy", [_accuracy(out / "accuracy.png")]),
        *(Section(title, make(sides, figures, tick)) for title, make in SECTIONS.items()),
        Section("Settings", _settings(arms, runs)),
        Section("Runs", _runs(runs)),
    ]
    datasets = ", ".join(sorted({str(run.summary["dataset"]) for run in runs}))
    seeds = sorted({run.summary["seed"] for run in runs})
    lead = (
        f"{len(runs)} finished {'run' if len(runs) == 1 else 'runs'}, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
    )
    html = page(f"Class-incremental learning on {datasets}", lead, sections)
    write_atomically(out / "report.html", html)
    return rows


def _sides(arms: list[Arm], runs: list[FinishedRun], tick: Callable[[], None]) -> list[Side]:
    """Return each arm with one of its runs and the figure data of that run.

    The run has the smallest seed that all arms of its method share; without a shared seed, the arm's smallest.
    """
    sides = []
    for arm in arms:
        seeds = [{run["seed"] for run in other.runs} for other in arms if other.method == arm.method]
        common = set.intersection(*seeds) or {run["seed"] for run in arm.runs}
        run = next(r for r in runs if r.summary is next(s for s in arm.runs if s["seed"] == min(common)))
        figure_data, problem = None, ""
        try:
            figure_data = load_figure_data(run)
        except UserError as error:
            problem = f"{arm.label}: {error}"
        sides.append(Side(arm, run, figure_data, problem))
        tick()
    return sides


def _results(rows: list[dict[str, Any]]) -> list[str]:
    figures = {
        "average": "average_accuracy",
        "average Θᴱ": "average_accuracy_exemplar_model",
        "last": "last_accuracy",
        **FORGETTING,
    }
    gains = {"gain": "paired_gain_vs_herding", "gain Θᴱ": "paired_gain_exemplar_model_vs_herding"}
    body = [
        [row["method"], row["exemplars"] or "none", str(row["seeds"])]
        + [mean_and_error_text(row, name).replace("-", "−") for name in figures.values()]
        + [mean_and_error_text(row, name, sign="+").replace("-", "−") for name in gains.values()]
        for row in rows
    ]
    return [
        paragraph(
            "Accuracy in percent. Average: over the phases, of the accuracy on all classes seen so far. Last: after "
            "the last phase. Θᴱ is the model fitted to the exemplars alone. Gains are over the same method with "
            "herding, paired by class order."
        ),
        paragraph(
            "Forgetting (base classes): points lost on the first phase's classes between the first model and the last. "
            "Forgetting (average): best earlier minus final accuracy on the classes of a phase, mean over all phases "
            "but the last. Backward transfer: final accuracy on them minus that right after their own phase, the same "
            "mean; negative where later phases harm."
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


def _settings(arms: list[Arm], runs: list[FinishedRun]) -> list[str]:
    """Return a table of the settings that differ between arms or class orders, and a folded table of all others."""
    settings = [[r.settings for r in runs if any(r.summary is run for run in arm.runs)] for arm in arms]
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


def _runs(runs: Sequence[FinishedRun]) -> list[str]:
    def cell(summary: dict[str, Any], key: str, form: str) -> str:
        return format(summary[key], form) if isinstance(summary.get(key), int | float) else "–"

    rows = [
        [
            str(run.folder),
            str(run.summary["method"]),
            str(run.summary["exemplars"] or "none"),
            str(run.summary["seed"]),
            cell(run.summary, "average_accuracy", ".2f"),
            cell(run.summary, "last_accuracy", ".2f"),
            cell(run.summary, "memory_bytes", ","),
            cell(run.summary, "seconds", ".0f"),
            cell(run.summary, "compilations", "d"),
            str(run.summary.get("backend", "–")),
        ]
        for run in runs
    ]
    columns = ["folder", "method", "exemplars", "seed", "average", "last", "memory (bytes)", "seconds", "programs"]
    return [table([*columns, "backend"], rows, "The runs of this report; programs: compiled by XLA", words=3)]
