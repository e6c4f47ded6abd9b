"""t-SNE figures of features: where the images of a class lie, and where its exemplars lie."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.lines import Line2D

from mnemonics_jax.reports.figures.style import CLASSES, MARKERS, WIDTH, Drawing, label, new_figure, title


class Cloud(NamedTuple):
    """Points in the plane for images (`data`) and for `exemplars`, with labels that index a common legend."""

    title: str
    data: Float[np.ndarray, "image 2"]
    data_labels: Int[np.ndarray, " image"]
    exemplars: Float[np.ndarray, "exemplar 2"]
    exemplar_labels: Int[np.ndarray, " exemplar"]


def tsne_panel(clouds: Sequence[Sequence[Cloud | None]], names: Sequence[str]) -> Drawing:
    """Draw clouds in rows and columns. `names` are the legend of the labels; None leaves a place empty.

    Images are light points. Exemplars are dark and edged, with one marker shape for each class.
    """
    rows, columns = len(clouds), max(len(row) for row in clouds)
    side = min(WIDTH / columns, 4.0)
    figure = new_figure(max(side * columns, 5.0), side * rows + 0.3 + 0.25 * -(-len(names) // 6))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, cloud in zip(grid.flat, [c for row in clouds for c in (*row, *[None] * columns)[:columns]], strict=True):
        if cloud is None:
            axes.set_axis_off()
            continue
        for number in range(len(names)):
            colour, marker = CLASSES[number % len(CLASSES)], MARKERS[number % len(MARKERS)]
            mine = cloud.data[cloud.data_labels == number]
            axes.scatter(*mine.T, s=7, color=_blend(colour, "white", 0.45), linewidths=0, zorder=1)
            mine = cloud.exemplars[cloud.exemplar_labels == number]
            dark = _blend(colour, "black", 0.15)
            axes.scatter(*mine.T, s=26, color=dark, marker=marker, edgecolors="black", linewidths=0.7, zorder=2)
        axes.set_title(title(cloud.title, 30), fontsize=10)
        axes.set(xticks=[], yticks=[])
    handles = [
        Line2D([], [], ls="", marker=MARKERS[i % len(MARKERS)], color=CLASSES[i % len(CLASSES)], mec="black", mew=0.6)
        for i in range(len(names))
    ]
    shown = [label(name) for name in names]
    figure.legend(handles, shown, loc="outside lower center", ncols=min(len(names), 10 if _short(shown) else 5))
    return figure


def _short(names: list[str]) -> bool:
    return max(map(len, names), default=0) <= 4


def _blend(colour: str, other: str, share: float) -> tuple[float, ...]:
    one, two = (np.asarray(mpl.colors.to_rgb(c)) for c in (colour, other))
    return tuple((1 - share) * one + share * two)
