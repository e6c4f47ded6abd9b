"""Figures of finished runs."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display is needed, and none is looked for.

import matplotlib.pyplot as plt
import numpy as np

from mnemonics_jax.compare import Arm

_KIND_STYLE = {"mnemonics": "-", "herding": "--", "random": ":", None: "-."}


def accuracy_curves(arms: list[Arm], path: Path) -> None:
    """Accuracy against classes seen, a line an arm: the mean over class orders with a band of one standard error.

    Lines of one method share a colour, lines of one exemplar kind a style. Arms whose phases differ are drawn each over
    its own classes.
    """
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    methods = list(dict.fromkeys(arm.method for arm in arms))
    for arm in arms:
        classes = np.asarray(arm.runs[0]["seen_classes"])
        curves = np.asarray([run["accuracy"] for run in arm.runs if run["seen_classes"] == arm.runs[0]["seen_classes"]])
        mean = curves.mean(axis=0)
        colour = f"C{methods.index(arm.method) % 10}"
        axes.plot(classes, mean, _KIND_STYLE.get(arm.exemplars, "-"), color=colour, marker="o", ms=3, label=arm.label)
        if len(curves) > 1:
            error = curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
            axes.fill_between(classes, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="classes seen", ylabel="accuracy on all classes seen (%)", ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=1 + (len(arms) > 6), loc="lower left")
    figure.savefig(path, dpi=150)
    plt.close(figure)
