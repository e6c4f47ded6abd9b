"""report.html: finished runs side by side on one page that needs no other file."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mnemonics_jax import data
from mnemonics_jax.reports import figures
from mnemonics_jax.reports.drawing import Drawn, Failure, Task, draw_plots, run_tasks
from mnemonics_jax.reports.figure_data import load_figure_data
from mnemonics_jax.reports.finished_runs import FinishedRun, label_variants
from mnemonics_jax.reports.html import page
from mnemonics_jax.reports.own_files import TITLE
from mnemonics_jax.reports.parts import Folded, Paragraph, Part, Plot, Section, Table, note, plain_table
from mnemonics_jax.reports.sections import SECTIONS, Side
from mnemonics_jax.reports.statistics import Arm, comparison, group_arms
from mnemonics_jax.reports.tables import results_tables, write_comparison
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import write_atomically
from mnemonics_jax.runtime.progress import Display


@dataclasses.dataclass(frozen=True)
class PageConfig:
    """What a report draws, and how."""

    tsne: bool = True
    """Whether to draw t-SNE of features, which takes most of the time."""
    formats: tuple[str, ...] = ("png",)
    """The formats of the figures' files, some of `formats.FORMATS`."""
    workers: int | None = None
    """Number of processes that draw; None for one on each processor, 1 for none but this one."""


def write_page(
    runs: list[FinishedRun], out: Path, display: Display, config: PageConfig | None = None
) -> list[dict[str, Any]]:
    """Write the comparison's tables, figures and report.html into `out`; return the rows of the comparison.

    If a run lacks checkpoints, its data or a memory, the page says so in place of the figures made from them; it names
    a figure that cannot be drawn.

    Args:
        runs: finished runs, of any arms and seeds.
        out: an existing folder.
        display: shows the progress.
        config: what to draw.
    """
    config = config or PageConfig()
    runs = label_variants(runs)
    rows = comparison([run.summary for run in runs])
    write_comparison(rows, out)
    arms = group_arms([run.summary for run in runs])
    sides = _sides(arms, runs, display)
    if config.tsne:
        sides = _with_clouds(sides, display, config.workers)
    makers = {title: make for title, make in SECTIONS.items() if config.tsne or title != "Features"}
    sections = _unique_names(
        [
            Section("Results", _results(rows)),
            Section("Accuracy", [_accuracy(arms)]),
            *(Section(title, make(sides)) for title, make in makers.items()),
            Section("Settings", _settings(arms, runs)),
            Section("Runs", _runs(runs)),
        ]
    )
    html = page(*_heading(runs), sections, _draw(sections, out, config, display))
    write_atomically(out / "report.html", html)
    return rows


def _draw(sections: Sequence[Section], out: Path, config: PageConfig, display: Display) -> dict[str, Drawn | Failure]:
    """Draw all figures: that of the accuracy into `out`, the others into its folder figures."""
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    plots = [part for section in sections for part in section.parts if isinstance(part, Plot)]
    placed = [(plot, out if plot.name == "accuracy" else folder) for plot in plots]
    drawn = draw_plots(placed, config.formats, display, config.workers)
    for name, result in drawn.items():
        if isinstance(result, Failure):
            display.warn(f"the figure {name} could not be drawn: {result.message}")
    return drawn


def _heading(runs: Sequence[FinishedRun]) -> tuple[str, str]:
    """Return the title of the page and the line below it."""
    datasets = ", ".join(sorted({str(run.summary["dataset"]) for run in runs}))
    seeds = sorted({run.summary["seed"] for run in runs})
    lead = (
        f"{len(runs)} finished {'run' if len(runs) == 1 else 'runs'}, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
    )
    return f"{TITLE} {datasets}", lead


def _unique_names(sections: Sequence[Section]) -> list[Section]:
    """Return the sections with a number at the end of a figure's name that an earlier one has."""
    taken: set[str] = set()

    def unique(part: Part) -> Part:
        if not isinstance(part, Plot):
            return part
        name, again = part.name, 2
        while name in taken:
            name, again = f"{part.name}-{again}", again + 1
        taken.add(name)
        return dataclasses.replace(part, name=name)

    return [Section(section.title, [unique(part) for part in section.parts]) for section in sections]


def _sides(arms: list[Arm], runs: list[FinishedRun], display: Display) -> list[Side]:
    """Return each arm with one of its runs and the figure data of that run.

    The run has the smallest seed that all arms of its method share; without a shared seed, the arm's smallest.
    """
    # Runs of one comparison have the same data.
    load = functools.lru_cache(maxsize=1)(data.load)
    display.task("reading runs", len(arms))
    sides = []
    for arm in arms:
        seeds = [{run["seed"] for run in other.runs} for other in arms if other.method == arm.method]
        common = set.intersection(*seeds) or {run["seed"] for run in arm.runs}
        run = next(r for r in runs if r.summary is next(s for s in arm.runs if s["seed"] == min(common)))
        figure_data, problem = None, ""
        try:
            figure_data = load_figure_data(run, load)
        except UserError as error:
            problem = f"{arm.label}: {error}"
        sides.append(Side(arm, run, figure_data, problem))
        display.advance(len(sides))
    return sides


def _with_clouds(sides: Sequence[Side], display: Display, workers: int | None) -> list[Side]:
    """Return the sides with the planes of their snapshots; a plane that fails is None, and a problem says why."""
    shown = [(side, shot) for side in sides if side.data and side.arm.exemplars for shot in side.data.snapshots]
    tasks = [
        Task(
            f"t-SNE of {side.arm.label} after phase {shot.phase}",
            partial(figures.tsne, np.concatenate([shot.data, shot.exemplars])),
        )
        for side, shot in shown
    ]
    planes = run_tasks(tasks, "t-SNE of features (--no-tsne: none)", display, workers)
    clouds: dict[str, list[figures.Cloud | None]] = {}
    problems: dict[str, list[str]] = {}
    for (side, shot), task, plane in zip(shown, tasks, planes, strict=True):
        if isinstance(plane, Failure):
            problems.setdefault(side.arm.label, []).append(f"{task.name}: {plane.message}")
            cloud = None
        else:
            title, images = f"{side.arm.exemplars}, after phase {shot.phase}", len(shot.data)
            cloud = figures.Cloud(title, plane[:images], shot.data_labels, plane[images:], shot.exemplar_labels)
        clouds.setdefault(side.arm.label, []).append(cloud)
    return [
        side._replace(
            clouds=tuple(clouds.get(side.arm.label, ())), cloud_problems=tuple(problems.get(side.arm.label, ()))
        )
        for side in sides
    ]


def _results(rows: list[dict[str, Any]]) -> list[Part]:
    accuracy, forgetting = results_tables(rows)
    return [
        Paragraph(
            "Accuracy in percent. Average: over the phases, of the accuracy on all classes seen so far. Last: after "
            "the last phase. Θ is the model of the method; Θᴱ is the model fitted to the exemplars alone. Gains are "
            "over the same method with herding, paired by class order."
        ),
        Table(accuracy),
        Paragraph(
            "In points. Forgetting (base classes): lost on the first phase's classes between the first model and the "
            "last. Forgetting (average): best earlier minus final accuracy on the classes of a phase, mean over all "
            "phases but the last. Backward transfer: final accuracy on them minus that right after their own phase, "
            "the same mean; negative where later phases harm."
        ),
        Table(forgetting),
    ]


def _accuracy(arms: list[Arm]) -> Plot:
    return Plot(
        "accuracy",
        "Lines of accuracy against the number of classes seen: a panel for each method, a line for each exemplar kind",
        "Accuracy on all classes seen so far: means over class orders, bands of one standard error. Θᴱ, the model "
        "fitted to the exemplars alone, has a panel of its own where its figures differ from those of Θ.",
        partial(figures.accuracy_curves, arms),
    )


def _settings(arms: list[Arm], runs: list[FinishedRun]) -> list[Part]:
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
    parts: list[Part] = []
    if differing:
        parts.append(Paragraph("A dash: the arm has no such setting."))
        parts.append(plain_table(["setting", *labels], differing, "Settings that differ", words=1 + len(labels)))
    shared = plain_table(["setting", "value"], common, "Settings that all arms share, or all that have them", words=2)
    return [*parts, Folded(f"{len(common)} settings that do not differ", shared)]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).strip("[]")


def _runs(runs: Sequence[FinishedRun]) -> list[Part]:
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
    return [plain_table([*columns, "backend"], rows, "The runs of this report; programs: compiled by XLA", words=3)]
