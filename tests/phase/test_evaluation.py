"""Figures a run is judged by, prediction rules and comparisons: cases worked out by hand and plain loops."""

import numpy as np
import pytest

from mnemonics_jax.methods import LogitCorrection
from mnemonics_jax.phase.evaluation import (
    Embedding,
    accuracies,
    by_classifier,
    by_nearest_mean,
    class_means,
    count_correct,
    unit,
)
from mnemonics_jax.reports.statistics import Arm, mean_and_error, paired

# Six classes in three groups: 0, 1, 2 arrive in phase 0; 3 in phase 1; 4, 5 in phase 2.
GROUPS = np.array([0, 0, 0, 1, 2, 2])
# Test images of the classes: 2, 2, 4; 2; 1, 5. So 8, 2 and 6 of the groups.
LABELS = np.repeat(np.arange(6), [2, 2, 4, 2, 1, 5])
RIGHT = np.array([[6, 0, 0], [4, 2, 0], [2, 1, 6]], np.int32)


def test_accuracy_is_weighted_by_images_not_by_groups():
    result = accuracies(RIGHT, LABELS, GROUPS)
    np.testing.assert_allclose(result.overall, [100 * 6 / 8, 100 * 6 / 10, 100 * 9 / 16])
    np.testing.assert_allclose(result.matrix, [[75, np.nan, np.nan], [50, 100, np.nan], [25, 50, 100]])
    assert result.average == pytest.approx((75 + 60 + 56.25) / 3)
    assert result.forgetting == pytest.approx(50)


def test_finished_phases_only():
    result = accuracies(RIGHT[:2], LABELS, GROUPS)
    np.testing.assert_allclose(result.overall, [75, 60])
    np.testing.assert_allclose(result.matrix, [[75, np.nan, np.nan], [50, 100, np.nan]])
    assert result.average == pytest.approx(67.5)
    assert result.forgetting == pytest.approx(25)
    assert accuracies(RIGHT[:1], LABELS, GROUPS).forgetting == 0


def test_marks_of_phases_not_measured_do_not_enter():
    marked = np.where(np.arange(3) > np.arange(3)[:, None], -1, RIGHT).astype(np.int32)
    np.testing.assert_array_equal(accuracies(marked, LABELS, GROUPS).overall, accuracies(RIGHT, LABELS, GROUPS).overall)


def test_a_model_that_improves_on_its_first_classes_has_negative_forgetting():
    assert accuracies(np.array([[4, 0, 0], [6, 0, 0]], np.int32), LABELS, GROUPS).forgetting == pytest.approx(-25)


def test_right_guesses_by_group():
    labels = np.array([0, 1, 2, 2, 3, 3, 1])
    guesses = np.array([0, 2, 2, 1, 3, 0, 1])  # right: classes 0, 2, 3, 1
    assert count_correct(labels, guesses, GROUPS).tolist() == [3, 1, 0]
    assert count_correct(labels, np.full(7, 5), GROUPS).tolist() == [0, 0, 0]
    assert count_correct(labels[:0], guesses[:0], GROUPS).tolist() == [0, 0, 0]


def test_counts_and_percentages_agree_with_a_loop_over_images():
    rng = np.random.default_rng(0)
    guesses = np.where(rng.random(len(LABELS)) < 0.6, LABELS, rng.integers(0, 6, len(LABELS)))
    num_correct = np.stack([count_correct(LABELS, guesses, GROUPS)] * 3)
    result = accuracies(num_correct, LABELS, GROUPS)
    for phase in range(3):
        hits = [g == y for g, y in zip(guesses, LABELS, strict=True) if GROUPS[y] <= phase]
        assert result.overall[phase] == pytest.approx(100 * sum(hits) / len(hits))


# Comparisons of runs


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (None, None)),
        ([3.5], (3.5, None)),
        ([1.0, 3.0], (2.0, 1.0)),  # deviation √2, over √2
        ([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], (5.0, (32 / 7 / 8) ** 0.5)),
    ],
)
def test_mean_and_standard_error(values, expected):
    assert mean_and_error(values) == pytest.approx(expected)


def arm(kind, values):
    return Arm("lwf", kind, tuple({"seed": seed, "average_accuracy": value} for seed, value in values.items()))


def test_differences_are_paired_by_class_order():
    mine, theirs = arm("mnemonics", {3: 40.0, 0: 30.0, 1: 50.0}), arm("herding", {0: 28.0, 2: 99.0, 3: 41.0})
    assert paired(mine, theirs, "average_accuracy") == [2.0, -1.0]
    assert paired(mine, arm("herding", {7: 1.0}), "average_accuracy") == []
    # A figure that a run does not have leaves its pair out.
    assert paired(mine, arm("herding", {0: None, 1: 45.0}), "average_accuracy") == [5.0]


# Prediction rules


def embedding(samples=40, classes=7, features=5, seed=0):
    rng = np.random.default_rng(seed)
    return Embedding(
        rng.normal(size=(samples, classes)).astype(np.float32),
        (rng.normal(size=(samples, features)) * rng.uniform(0.1, 9, (samples, 1))).astype(np.float32),
    )


def test_features_are_brought_to_length_one():
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])), [[0.6, 0.8], [0, 0], [0, -1]])


def test_class_means_are_those_of_a_plain_loop():
    features, labels = embedding().features, np.random.default_rng(1).choice([0, 1, 3, 5], 40)
    means = class_means(features, labels, 7)
    for c in range(7):
        rows = [f / np.sqrt(np.sum(f.astype(np.float64) ** 2)) for f, y in zip(features, labels, strict=True) if y == c]
        np.testing.assert_allclose(means[c], sum(rows) / len(rows) if rows else np.zeros(5), atol=1e-6)


@pytest.mark.parametrize("seen", [1, 4, 7])
def test_the_classifier_predicts_the_largest_corrected_logit_of_a_seen_class(seen):
    e = embedding()
    e.logits[:, seen:] = 1e6
    rng = np.random.default_rng(2)
    bias = LogitCorrection(rng.uniform(0.2, 2, 7).astype(np.float32), rng.normal(size=7).astype(np.float32))
    guesses = by_classifier(e, bias, np.arange(7) < seen)
    expected = [max(range(seen), key=lambda c: z[c] * bias.scale[c] + bias.shift[c]) for z in e.logits]
    assert guesses.tolist() == expected


def test_the_correction_can_change_the_guess():
    e = Embedding(np.array([[1.0, 2.0, 9.0]], np.float32), np.ones((1, 2), np.float32))
    seen = np.array([True, True, False])
    none, half = (LogitCorrection(np.array([1, s, 1], np.float32), np.zeros(3, np.float32)) for s in (1, 0.25))
    assert by_classifier(e, none, seen).tolist() == [1]
    assert by_classifier(e, half, seen).tolist() == [0]


@pytest.mark.parametrize("seen", [1, 4, 7])
def test_nearest_mean_is_that_of_the_distances(seen):
    """argmin_c ‖f/‖f‖ − m_c/‖m_c‖‖ over the classes seen; unseen classes' means lie on the samples themselves."""
    e = embedding(samples=30)
    means = np.random.default_rng(3).normal(size=(7, 5)).astype(np.float32) * 0.3
    means[seen:] = e.features[: 7 - seen]
    guesses = by_nearest_mean(e, means, np.arange(7) < seen)
    for f, guess in zip(e.features.astype(np.float64), guesses, strict=True):
        distances = [np.linalg.norm(f / np.linalg.norm(f) - m / np.linalg.norm(m)) for m in means[:seen]]
        assert guess == np.argmin(distances)


def test_rules_work_without_negative_numbers_hiding_unseen_classes():
    """All scores of seen classes are negative: a mask at zero would let unseen classes win."""
    e = Embedding(np.full((3, 4), -5.0, np.float32), -np.ones((3, 2), np.float32))
    seen = np.array([False, True, False, False])
    assert by_classifier(e, LogitCorrection(np.ones(4, np.float32), np.zeros(4, np.float32)), seen).tolist() == [1] * 3
    assert by_nearest_mean(e, np.ones((4, 2), np.float32), seen).tolist() == [1] * 3
