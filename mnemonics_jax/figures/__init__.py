"""Figures as functions from data to a file: each draws what it is given and writes it to `path`, as PNG by its name."""

from mnemonics_jax.figures.curves import Training, accuracy_curves, outer_loss_curves, training_curves
from mnemonics_jax.figures.embedding import Cloud, tsne, tsne_panel
from mnemonics_jax.figures.heatmaps import Confusion, confusion_matrices, group_accuracy
from mnemonics_jax.figures.pictures import exemplar_comparison, exemplar_kinds

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
