"""Line figures: accuracy against seen classes, training phase by phase, the outer loss of exemplar learning."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mnemonics_jax.reports.figures.style import (
    LINES,
    WIDTH,
    Drawing,
    Look,
    clean,
    kind_looks,
    label,
    new_figure,
    title,
)
from mnemonics_jax.reports.statistics import EXEMPLAR_MODEL, Arm, models_differ

_MOST_IN_A_PANEL = 8
"""Most lines of a legend that fits into the place of a panel."""
_EXPLAINED = 400
"""Most points of a line with tooltips."""


class Training(NamedTuple):
    """A run's training over all phases: values at `epoch`, counted from the start of the run.

    `starts` are the epochs at which phases begin. Not every epoch needs values.
    """

    epoch: Float[np.ndarray, " epoch"]
    loss: Float[np.ndarray, " epoch"]
    accuracy: Float[np.ndarray, " epoch"]
    starts: tuple[float, ...]


def accuracy_curves(arms: list[Arm]) -> Drawing:
    """Draw accuracy against seen classes, in a panel for each method: one line for each exemplar kind.

    A line is the mean over class orders, with a band of one standard error. Where the model fitted to the exemplars,
    Θᴱ, is not as accurate as Θ, it has a panel of its own beside that of Θ. Arms may differ in their phases; each is
    drawn over its own numbers of classes.
    """
    rows = _panels(arms)
    figure = new_figure(WIDTH, (3.6 if len(rows) == 1 else 2.5 * len(rows)) + 0.3)
    grid = figure.subplots(len(rows), max(map(len, rows)), squeeze=False, sharex=True, sharey=True)
    looks = kind_looks([arm.exemplars for arm in arms])
    for row, axes_row in zip(rows, grid, strict=True):
        axes_row[0].set_ylabel("accuracy (%)")
        for axes, panel in zip(axes_row, row, strict=False):
            axes.set_title(label(panel.title, 40), fontsize=10)
            for arm in panel.arms:
                _accuracy_line(figure, axes, arm, panel.key, looks[arm.exemplars])
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    # The last row may have room for another panel.
    spare = list(grid[-1, len(rows[-1]) :])
    for axes in [*grid[-1, : len(rows[-1])], *(grid[-2, len(rows[-1]) :] if spare else ())]:
        axes.set_xlabel("classes seen")
        axes.tick_params(labelbottom=True)
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, ms=5, lw=look.width, label=_kind_label(kind))
        for kind, look in looks.items()
    ]
    for axes in spare:
        axes.set_axis_off()
    if spare and len(handles) <= _MOST_IN_A_PANEL:
        spare[0].legend(handles=handles, fontsize=9, loc="center", title="exemplars")
    else:
        figure.legend(handles=handles, fontsize=9, ncols=3, loc="outside lower center")
    return figure


def _kind_label(kind: str | None) -> str:
    return label(kind or "no exemplars", 32)


class _Panel(NamedTuple):
    title: str
    arms: list[Arm]
    key: str


def _panels(arms: list[Arm]) -> list[list[_Panel]]:
    """Return rows of panels. Where Θᴱ differs from Θ by what tables show, a method has a row; others share rows."""
    both, single = [], []
    for method in dict.fromkeys(arm.method for arm in arms):
        mine = [arm for arm in arms if arm.method == method]
        fitted = [arm for arm in mine if all(run.get(EXEMPLAR_MODEL) for run in arm.runs)]
        if models_differ([run for arm in mine for run in arm.runs]) and fitted:
            both.append([_Panel(f"{method}: Θ", mine, "accuracy"), _Panel(f"{method}: Θᴱ", fitted, EXEMPLAR_MODEL)])
        else:
            single.append(_Panel(method, mine, "accuracy"))
    return both + [single[start : start + 2] for start in range(0, len(single), 2)]


def _accuracy_line(figure: Drawing, axes: Axes, arm: Arm, key: str, look: Look) -> None:
    classes = np.asarray(arm.runs[0]["seen_classes"])
    curves = np.asarray([run[key] for run in arm.runs if run["seen_classes"] == arm.runs[0]["seen_classes"]])
    mean, error = curves.mean(axis=0), np.zeros(len(classes))
    axes.plot(classes, mean, color=look.colour, lw=look.width, marker=look.marker, ms=2.5 + look.width)
    if len(curves) > 1:
        error = curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
        axes.fill_between(classes, mean - error, mean + error, color=look.colour, alpha=0.15, linewidth=0)
    model = "Θᴱ" if key == EXEMPLAR_MODEL else "Θ"
    spread = [f" ± {value:.2f}" if len(curves) > 1 else "" for value in error]
    texts = [
        f"{arm.label}, {model}, {seen} classes: {value:.2f}{around} %"
        for seen, value, around in zip(classes, mean, spread, strict=True)
    ]
    _explain_points(figure, axes, classes, mean, texts)


def _explain_points(figure: Drawing, axes: Axes, x: Any, y: Any, texts: Sequence[str]) -> None:
    """Lay invisible marks, large enough for a pointer, over the points that are finite."""
    good = [place for place in range(len(texts)) if np.isfinite(x[place]) and np.isfinite(y[place])]
    if good:
        (marks,) = axes.plot([x[i] for i in good], [y[i] for i in good], ls="", marker="o", ms=11, alpha=0)
        figure.explain(marks, [clean(texts[place]) for place in good])


def training_curves(runs: Mapping[str, Training]) -> Drawing:
    """Draw training loss and accuracy by epoch, one line for each run, with a vertical rule where a phase begins."""
    figure = new_figure(WIDTH, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for number, (name, run) in enumerate(runs.items()):
        style = {"color": LINES[number % len(LINES)], "lw": max(2.4 - 0.5 * number, 1.0), "label": label(name, 32)}
        for axes, values, unit in ((upper, run.loss, ""), (lower, run.accuracy, " %")):
            axes.plot(run.epoch, values, **style)
            if len(run.epoch) <= _EXPLAINED:
                texts = [f"{name}, epoch {e:g}: {v:.4g}{unit}" for e, v in zip(run.epoch, values, strict=True)]
                _explain_points(figure, axes, run.epoch, values, texts)
    for axes in (upper, lower):
        for start in sorted({start for run in runs.values() for start in run.starts[1:]}):
            axes.axvline(start, color="0.75", lw=0.8, zorder=0)
        axes.grid(axis="y", alpha=0.3)
        axes.margins(x=0.01)
    upper.set(ylabel="training loss", ylim=(0, None))
    lower.set(ylabel="training accuracy (%)", xlabel="epoch, all phases (rules: a phase begins)")
    figure.legend(*upper.get_legend_handles_labels(), fontsize=9, ncols=3, loc="outside lower center")
    return figure


def outer_loss_curves(
    runs: Mapping[str, Sequence[tuple[Sequence[int | float], Sequence[float]]]], *, stage: str = "exemplars"
) -> Drawing:
    """Draw the outer loss against outer steps, one panel for each run and one line for each phase.

    Args:
        runs: for each run by name, (outer steps, outer losses) in order of phase. A phase without steps has no line.
        stage: the name of the steps on the axis.
    """
    columns = min(len(runs), 3)
    rows = -(-len(runs) // columns)
    figure = new_figure(WIDTH, 0.8 + 2.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    phases = max(len(lines) for lines in runs.values())
    # The lightest colours of the map would be invisible on white.
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(phases, 2)))
    for axes, (name, lines) in zip(grid.flat, runs.items(), strict=False):
        for phase, (steps, losses) in enumerate(lines):
            if len(steps):
                axes.plot(steps, losses, color=colours[phase], marker="o", ms=2.5, lw=1.2)
                texts = [
                    f"{name}, phase {phase}, step {at}: {loss:.4g}" for at, loss in zip(steps, losses, strict=True)
                ]
                _explain_points(figure, axes, steps, losses, texts)
        axes.set_title(title(name, 30), fontsize=10)
        axes.set_xlabel(f"outer step ({stage})")
        axes.grid(alpha=0.3)
    for axes in list(grid.flat)[len(runs) :]:
        axes.remove()
    values = [loss for lines in runs.values() for _, losses in lines for loss in losses if loss > 0]
    for row in grid:
        row[0].set_ylabel("outer loss")
        # Losses differ widely, because phases differ in their number of classes.
        if values and max(values) > 10 * min(values):
            row[0].set_yscale("log")
            # Ticks at the powers of ten alone would leave an axis of one decade with one number.
            row[0].yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            row[0].yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
            row[0].yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    edges = mpl.colors.BoundaryNorm(np.arange(len(colours) + 1) - 0.5, len(colours))
    scale = mpl.cm.ScalarMappable(edges, mpl.colors.ListedColormap(colours))
    ticks = range(0, len(colours), 1 + len(colours) // 10)
    bar = figure.colorbar(scale, ax=list(grid.flat)[: len(runs)], fraction=0.04, ticks=ticks)
    bar.set_label("phase")
    bar.minorticks_off()
    return figure
