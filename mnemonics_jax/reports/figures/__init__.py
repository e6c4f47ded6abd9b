"""Functions that draw figures: each draws the data it is given and writes a PNG file to `path`."""

from mnemonics_jax.reports.figures.curves import Training, accuracy_curves, outer_loss_curves, training_curves
from mnemonics_jax.reports.figures.embedding import Cloud, tsne, tsne_panel
from mnemonics_jax.reports.figures.exemplar_grid import exemplar_comparison, exemplar_kinds
from mnemonics_jax.reports.figures.heatmaps import Confusion, confusion_matrices, group_accuracy

__all__ = [
    "Cloud",
    "Confusion",
    "Training",
    "accuracy_curves",
    "confusion_matrices",
    "exemplar_comparison",
    "exemplar_kinds",
    "group_accuracy",
    "outer_loss_curves",
    "training_curves",
    "tsne",
    "tsne_panel",
]
