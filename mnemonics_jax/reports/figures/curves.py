"""Line figures: accuracy against seen classes, training phase by phase, the outer loss of exemplar learning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float

from mnemonics_jax.reports.figures.style import LINES, WIDTH, label, line_style, new_figure, save, title
from mnemonics_jax.reports.statistics import Arm

_SHORT = 22
"""Most characters of a label at which three labels fit beside each other in a legend."""


class Training(NamedTuple):
    """A run's training over all phases: values at `epoch`, counted from the start of the run.

    `starts` are the epochs at which phases begin. Not every epoch needs values.
    """

    epoch: Float[np.ndarray, " epoch"]
    loss: Float[np.ndarray, " epoch"]
    accuracy: Float[np.ndarray, " epoch"]
    starts: tuple[float, ...]


def accuracy_curves(arms: list[Arm], path: Path) -> None:
    """Draw accuracy against seen classes, one line for each arm: the mean over class orders.

    A band of one standard error surrounds it. Lines of one method share a colour, lines of one exemplar kind a line
    style. Arms may differ in their phases; each is drawn over its own numbers of classes.
    """
    columns = 3 if max(len(arm.label) for arm in arms) <= _SHORT else 2
    figure = new_figure(WIDTH, 4.5 + 0.2 * -(-len(arms) // columns))
    axes = figure.subplots()
    methods = list(dict.fromkeys(arm.method for arm in arms))
    kinds = list(dict.fromkeys(arm.exemplars for arm in arms))
    for arm in arms:
        classes = np.asarray(arm.runs[0]["seen_classes"])
        curves = np.asarray([run["accuracy"] for run in arm.runs if run["seen_classes"] == arm.runs[0]["seen_classes"]])
        mean = curves.mean(axis=0)
        colour = LINES[methods.index(arm.method) % len(LINES)]
        style = line_style(arm.exemplars, kinds)
        axes.plot(classes, mean, linestyle=style, color=colour, marker="o", ms=3, label=label(arm.label, 32))
        if len(curves) > 1:
            error = curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
            axes.fill_between(classes, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
    bottom = max(min(min(run["accuracy"]) for arm in arms for run in arm.runs) // 10 * 10 - 10, 0)
    axes.set(xlabel="classes seen", ylabel="accuracy on all classes seen (%)", ylim=(bottom, 102))
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    # The legend is below the axes, where it cannot hide a line.
    figure.legend(fontsize=9, ncols=columns, loc="outside lower center", handlelength=3)
    save(figure, path)


def training_curves(runs: Mapping[str, Training], path: Path) -> None:
    """Draw training loss and accuracy by epoch, one line for each run, with a vertical rule where a phase begins."""
    figure = new_figure(WIDTH, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for number, (name, run) in enumerate(runs.items()):
        style = {"color": LINES[number % len(LINES)], "lw": 1.2, "label": label(name, 32)}
        upper.plot(run.epoch, run.loss, **style)
        lower.plot(run.epoch, run.accuracy, **style)
    for axes in (upper, lower):
        for start in sorted({start for run in runs.values() for start in run.starts[1:]}):
            axes.axvline(start, color="0.75", lw=0.8, zorder=0)
        axes.grid(axis="y", alpha=0.3)
    upper.set(ylabel="training loss", ylim=(0, None))
    lower.set(ylabel="training accuracy (%)", xlabel="epoch, all phases (rules: a phase begins)", ylim=(0, 102))
    figure.legend(*upper.get_legend_handles_labels(), fontsize=9, ncols=3, loc="outside lower center")
    save(figure, path)


def outer_loss_curves(
    runs: Mapping[str, Sequence[tuple[Sequence[int], Sequence[float]]]], path: Path, *, stage: str = "exemplars"
) -> None:
    """Draw the outer loss against outer steps, one panel for each run and one line for each phase.

    Args:
        runs: for each run by name, (outer steps, outer losses) in order of phase. A phase without steps has no line.
        path: the file to write.
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
            row[0].yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
            row[0].yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    edges = mpl.colors.BoundaryNorm(np.arange(len(colours) + 1) - 0.5, len(colours))
    scale = mpl.cm.ScalarMappable(edges, mpl.colors.ListedColormap(colours))
    ticks = range(0, len(colours), 1 + len(colours) // 10)
    bar = figure.colorbar(scale, ax=list(grid.flat)[: len(runs)], fraction=0.04, ticks=ticks)
    bar.set_label("phase")
    bar.minorticks_off()
    save(figure, path)
