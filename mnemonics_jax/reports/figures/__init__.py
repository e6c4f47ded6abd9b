"""Functions that draw figures: each returns a figure of the data it is given, which `save` writes to a file."""

from mnemonics_jax.reports.figures.curves import Training, accuracy_curves, outer_loss_curves, training_curves
from mnemonics_jax.reports.figures.embedding import Cloud, tsne_panel
from mnemonics_jax.reports.figures.exemplar_grid import difference_scale, exemplar_comparison, exemplar_kinds
from mnemonics_jax.reports.figures.heatmaps import Confusion, confusion_matrices, group_accuracy
from mnemonics_jax.reports.figures.style import Drawing, save
from mnemonics_jax.reports.figures.svg import inline_svg
from mnemonics_jax.reports.figures.tsne import tsne

__all__ = [
    "Cloud",
    "Confusion",
    "Drawing",
    "Training",
    "accuracy_curves",
    "confusion_matrices",
    "difference_scale",
    "exemplar_comparison",
    "exemplar_kinds",
    "group_accuracy",
    "inline_svg",
    "outer_loss_curves",
    "save",
    "training_curves",
    "tsne",
    "tsne_panel",
]
