"""What a run is judged by: accuracy after each phase, forgetting, and the phase × class-group matrix."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32


class Accuracies(NamedTuple):
    """Percentages, 0 to 100.

    `overall[i]` is A_i, over all classes seen after phase i; `matrix[i, g]` is over the classes that arrived in phase
    g, NaN for g > i.
    """

    overall: Float[np.ndarray, "phases"]
    matrix: Float[np.ndarray, "phases groups"]

    @property
    def average(self) -> float:
        """Mean of A_0 .. A_N."""
        return float(self.overall.mean())

    @property
    def forgetting(self) -> float:
        """F: accuracy of Θ_0 minus accuracy of the last model on phase 0's classes, in percentage points."""
        return float(self.matrix[0, 0] - self.matrix[-1, 0])


def right_by_group(
    labels: Int[np.ndarray, "sample"], guesses: Int[np.ndarray, "sample"], group_of_class: Int[np.ndarray, "classes"]
) -> Int32[np.ndarray, "groups"]:
    """Right guesses among the samples of each class group."""
    hits = labels[labels == guesses]
    return np.bincount(group_of_class[hits], minlength=group_of_class.max() + 1).astype(np.int32)


def accuracies(
    right: Int32[np.ndarray, "phases groups"],
    test_labels: Int[np.ndarray, "sample"],
    group_of_class: Int[np.ndarray, "classes"],
) -> Accuracies:
    """Percentages from counts of right guesses; `right` may hold the finished phases only."""
    total = np.bincount(group_of_class[test_labels], minlength=right.shape[1])
    seen = np.arange(right.shape[1]) <= np.arange(len(right))[:, None]
    overall = 100 * np.where(seen, right, 0).sum(axis=1) / np.where(seen, total, 0).sum(axis=1)
    return Accuracies(overall, np.where(seen, 100 * right / total, np.nan))
