"""Figures of exemplars as grids of images: before and after learning, and exemplar kinds side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from mnemonics_jax.reports.figures.style import WIDTH, Drawing, label, new_figure, title

ExemplarGrid = Shaped[np.ndarray, "classes exemplar height width channel"]
_SCALES = (1, 2, 3, 4, 5, 8, 10, 15, 20, 30, 50, 100)
_GAP = 0.35
"""Space between blocks, in image widths."""
_NAMES = 1.5
"""Space for the class names, in inches."""


def exemplar_comparison(start: ExemplarGrid, learned: ExemplarGrid, names: Sequence[str]) -> Drawing:
    """Draw for each class (a row) the images that learning started from, the learned exemplars, and the difference.

    The difference is multiplied by `difference_scale`, which the figure states. Grey images show it around white
    (orange: darker, purple: brighter), coloured images around grey.

    Args:
        start: real images, uint8, or floats in [0, 1], of one to three channels.
        learned: exemplars of the same shape.
        names: the class names of the rows.
    """
    before, after = _floats(start), _floats(learned)
    change, scale = after - before, difference_scale(start, learned)
    if change.shape[-1] == 1:
        difference, around = scale * change, "white: none"
    else:
        difference, around = np.clip(0.5 + scale * change, 0, 1), "grey: none"
    blocks = {"real image, the start": before, "learned": after, f"change × {scale} ({around})": difference}
    return _blocks(blocks, names, diverging="change")


def difference_scale(start: ExemplarGrid, learned: ExemplarGrid) -> int:
    """Return by how much to multiply a difference to see it: a whole number with which 99 % of it stays in range."""
    reach = max(float(np.quantile(np.abs(_floats(learned) - _floats(start)), 0.99)), 1e-9)
    return max(s for s in _SCALES if s == 1 or s * reach <= 0.5)


def exemplar_kinds(kinds: Mapping[str, ExemplarGrid], names: Sequence[str]) -> Drawing:
    """Draw the exemplars of each class (a row), exemplar kinds side by side.

    Images are uint8, or floats in [0, 1], of one to three channels.
    """
    return _blocks({title(kind, 30): _floats(images) for kind, images in kinds.items()}, names)


def _floats(images: ExemplarGrid) -> Float[np.ndarray, "classes exemplar height width channel"]:
    return images / 255.0 if images.dtype == np.uint8 else images.astype(np.float64)


def _blocks(
    blocks: Mapping[str, Float[np.ndarray, "..."]], names: Sequence[str], diverging: str | None = None
) -> Drawing:
    """Draw one image for each block: its exemplars in rows by class, one pixel apart."""
    classes, amount, height, width = next(iter(blocks.values())).shape[:4]
    count = len(blocks)
    side = (WIDTH - _NAMES) / (count * (amount + _GAP))
    side = min(side, 0.9)
    figure = new_figure(_NAMES + side * count * (amount + _GAP), 0.45 + side * classes * height / width, squares=True)
    figure.get_layout_engine().set(wspace=_GAP / amount)
    grid = figure.subplots(1, count, squeeze=False)[0]
    for axes, (heading, images) in zip(grid, blocks.items(), strict=True):
        around_zero = diverging is not None and heading.startswith(diverging) and images.shape[-1] == 1
        filler = 0.0 if around_zero else 1.0
        sheet = _sheet(images, filler)
        limits = {"cmap": "PuOr", "vmin": -0.5, "vmax": 0.5} if around_zero else {"cmap": "gray", "vmin": 0, "vmax": 1}
        axes.imshow(sheet, interpolation="nearest", **({} if sheet.ndim == 3 else limits))
        axes.set_title(heading, fontsize=9)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(False)
    centres = (np.arange(classes) + 0.5) * (height + 1) - 1
    grid[0].set_yticks(centres, [label(name) for name in names], fontsize=9)
    grid[0].tick_params(length=0)
    return figure


def _sheet(images: Float[np.ndarray, "classes exemplar height width channel"], filler: float) -> np.ndarray:
    """Join the exemplars into one image, with a pixel of `filler` between them. Two channels become their mean."""
    classes, amount, height, width, channels = images.shape
    sheet = np.full((classes, amount, height + 1, width + 1, channels), filler)
    sheet[:, :, :height, :width] = images
    sheet = sheet.transpose(0, 2, 1, 3, 4).reshape(classes * (height + 1), amount * (width + 1), channels)[:-1, :-1]
    return sheet if channels == 3 else sheet.mean(axis=-1)
