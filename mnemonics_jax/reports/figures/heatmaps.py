"""Figures of matrices: accuracy of each class group after each phase, and confusion matrices."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes

from mnemonics_jax.phase.evaluation import Accuracies
from mnemonics_jax.reports.figures.style import WIDTH, Drawing, clean, label, new_figure, title
from mnemonics_jax.reports.statistics import FORGETTING

_READABLE = 11
"""Most rows of a matrix whose numbers are written into its cells."""
_NAMED = 20
"""Most classes that a confusion matrix names."""
_EXPLAINED = 26
"""Most rows of a matrix whose cells have tooltips; those of a hundred classes would take a megabyte each."""


class Confusion(NamedTuple):
    """Counts of test images by true class (row) and predicted class (column), both as positions in the class order.

    `names` are the class names in that order. `sizes` is the number of classes of each phase.
    """

    counts: Int[np.ndarray, "classes classes"]
    names: tuple[str, ...]
    sizes: tuple[int, ...]


def group_accuracy(arms: Mapping[str, Float[np.ndarray, "orders phases groups"]], lowest: float = 0.0) -> Drawing:
    """Draw the phase × class-group matrix of each arm: accuracy (%) on the classes of one phase, after each phase.

    The map shows the mean over class orders. Down a column, one sees how a group is forgotten. NaN, for groups still to
    come, stays blank. The title names both kinds of forgetting and backward transfer, each a mean over class orders.
    The colours begin at `lowest` percent; one value for several figures makes their colours comparable.
    """
    figure, axes = _row_of_squares(len(arms))
    for place, (name, matrices) in zip(axes, arms.items(), strict=True):
        matrix = matrices.mean(axis=0)
        image = place.imshow(matrix, cmap="cividis", vmin=lowest, vmax=100, aspect="equal")
        place.set_title(f"{title(name)}\n{_losses(matrices)}", fontsize=9)
        place.set(xlabel="class group, by arrival", ylabel="after phase" if _is_first(place) else "")
        for axis in (place.xaxis, place.yaxis):
            axis.set_major_locator(mpl.ticker.MaxNLocator(integer=True, nbins=8))
        if len(matrix) <= _READABLE:
            size = max(4.0, min(9.0, 42 / len(matrix) * (3 / max(len(arms), 2)) ** 0.5))
            for (row, column), value in np.ndenumerate(matrix):
                if np.isfinite(value):
                    colour = "black" if value > lowest + 0.55 * (100 - lowest) else "white"
                    place.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=size)
        texts = [
            f"{name}: {value:.2f} % on the classes of phase {column} after phase {row}" if np.isfinite(value) else ""
            for (row, column), value in np.ndenumerate(matrix)
        ]
        _explain_cells(figure, place, texts)
    figure.colorbar(image, ax=axes, fraction=0.05).set_label("accuracy (%)")
    return figure


def _losses(matrices: Float[np.ndarray, "orders phases groups"]) -> str:
    """Return a line for each of `FORGETTING`: the mean over class orders.

    Forgetting of the mean matrix would be another figure, because the best earlier accuracy is a maximum.
    """
    orders = [Accuracies(np.full(len(matrix), np.nan), matrix) for matrix in matrices]
    means = {name: np.mean([getattr(order, key) for order in orders]) for name, key in FORGETTING.items()}
    return "\n".join(f"{name} {value:.1f}" for name, value in means.items()).replace("-", "−")


def confusion_matrices(runs: Mapping[str, Confusion]) -> Drawing:
    """Draw the confusion matrix of each run, in percent of each true class, with lines where phases begin.

    Classes are in class order. The colour scale follows the square root, because the interesting confusions are a few
    percent.
    """
    figure, axes = _row_of_squares(len(runs))
    scale = mpl.colors.PowerNorm(0.5, 0, 100)
    for place, (name, run) in zip(axes, runs.items(), strict=True):
        shares = 100 * run.counts / np.maximum(run.counts.sum(axis=1, keepdims=True), 1)
        image = place.imshow(shares, cmap="cividis", norm=scale, interpolation="nearest")
        for edge in np.cumsum(run.sizes)[:-1] - 0.5:
            place.axhline(edge, color="white", lw=0.7)
            place.axvline(edge, color="white", lw=0.7)
        place.set_title(title(name), fontsize=10)
        place.set(xlabel="predicted", ylabel="true, by arrival" if _is_first(place) else "")
        _name_classes(place, run.names)
        texts = [
            f"{count} of {run.counts[true].sum()} images of {run.names[true]} ({shares[true, guess]:.1f} %) predicted "
            f"as {run.names[guess]}"
            for (true, guess), count in np.ndenumerate(run.counts)
        ]
        _explain_cells(figure, place, texts)
    if len({run.names for run in runs.values()}) == 1:
        for place in axes:
            if not _is_first(place):
                place.set_yticklabels([])
    bar = figure.colorbar(image, ax=axes, fraction=0.05, ticks=[0, 1, 5, 10, 25, 50, 100])
    bar.set_label("of a class's images (%)")
    return figure


def _is_first(axes: Axes) -> bool:
    return axes.get_subplotspec().is_first_col()


def _explain_cells(figure: Drawing, axes: Axes, texts: list[str]) -> None:
    """Lay a transparent mesh over a square matrix, with a tooltip for each cell; none over a large matrix."""
    side = math.isqrt(len(texts))
    if side <= _EXPLAINED:
        edges = np.arange(side + 1) - 0.5
        mesh = axes.pcolormesh(edges, edges, np.zeros((side, side)), alpha=0, linewidth=0)
        figure.explain(mesh, [clean(text) for text in texts])


def _row_of_squares(number: int) -> tuple[Drawing, list[Axes]]:
    """Return a figure and `number` square axes, three in a row."""
    columns = min(number, 3)
    rows = -(-number // columns)
    side = {1: 4.6, 2: 3.5}.get(columns, WIDTH / 3)
    figure = new_figure(min(WIDTH, columns * side + 1.2), rows * side + 0.7, squares=True)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in grid[number:]:
        unused.remove()
    return figure, grid[:number]


def _name_classes(axes: Axes, names: tuple[str, ...]) -> None:
    if len(names) > _NAMED:
        return
    shown = [label(name, 10) for name in names]
    size = 8 if len(names) <= 10 else 6
    axes.set_yticks(range(len(names)), shown, fontsize=size)
    # Longer names do not fit below the columns.
    short = max(map(len, shown)) <= 2
    axes.set_xticks(range(len(names)), shown if short else [""] * len(names), fontsize=size)
