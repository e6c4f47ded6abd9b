"""Figures a run is judged by, prediction rules and comparisons: cases worked out by hand and plain loops."""

import numpy as np
import pytest

from mnemonics_jax.methods import LogitCorrection
from mnemonics_jax.phase.evaluation import (
    Accuracies,
    Embedding,
    accuracies,
    by_classifier,
    by_nearest_mean,
    class_means,
    count_correct,
    unit,
)
from mnemonics_jax.reports.statistics import Arm, comparison, mean_and_error, mean_of_runs, paired

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
    assert result.average_forgetting == pytest.approx(25)
    assert result.backward_transfer == pytest.approx(-25)
    first = accuracies(RIGHT[:1], LABELS, GROUPS)
    assert (first.forgetting, first.average_forgetting, first.backward_transfer) == (0, 0, 0)


def test_marks_of_phases_not_measured_do_not_enter():
    marked = np.where(np.arange(3) > np.arange(3)[:, None], -1, RIGHT).astype(np.int32)
    np.testing.assert_array_equal(accuracies(marked, LABELS, GROUPS).overall, accuracies(RIGHT, LABELS, GROUPS).overall)


def test_a_model_that_improves_on_its_first_classes_has_negative_forgetting():
    assert accuracies(np.array([[4, 0, 0], [6, 0, 0]], np.int32), LABELS, GROUPS).forgetting == pytest.approx(-25)


def run_of(matrix):
    """A run with that matrix; its overall accuracies are of no interest."""
    return Accuracies(np.full(len(matrix), np.nan), matrix)


def random_run(phases, seed):
    """A run with accuracies drawn at random; NaN for groups still to come, as in a real one."""
    matrix = np.random.default_rng(seed).uniform(0, 100, (phases, phases))
    return run_of(np.where(np.tri(phases, dtype=bool), matrix, np.nan))


def test_forgetting_and_transfer_of_an_example():
    """Group 0 is best on arrival, group 1 later, group 2 at the end, which is not earlier; group 3 does not count."""
    none = np.nan
    result = run_of(np.array([[80, none, none, none], [60, 90, none, none], [70, 95, 40, none], [50, 65, 60, 100]]))
    assert result.forgetting == pytest.approx(80 - 50)
    assert result.average_forgetting == pytest.approx(((80 - 50) + (95 - 65) + (40 - 60)) / 3)
    assert result.backward_transfer == pytest.approx(((50 - 80) + (65 - 90) + (60 - 40)) / 3)


def test_groups_count_alike_whatever_their_images():
    # Group 0 falls from 75 to 25 %, group 1 from 100 to 50 %.
    result = accuracies(RIGHT, LABELS, GROUPS)
    assert result.average_forgetting == pytest.approx(50)
    assert result.backward_transfer == pytest.approx(-50)


@pytest.mark.parametrize("phases", [2, 3, 6, 26])
@pytest.mark.parametrize("seed", range(5))
def test_forgetting_and_transfer_are_those_of_plain_loops(phases, seed):
    result, last = random_run(phases, seed), phases - 1
    a = result.matrix.tolist()
    fallen = [max(a[k][g] for k in range(g, last)) - a[last][g] for g in range(last)]
    changed = [a[last][g] - a[g][g] for g in range(last)]
    assert result.average_forgetting == pytest.approx(sum(fallen) / last)
    assert result.backward_transfer == pytest.approx(sum(changed) / last)


@pytest.mark.parametrize("phases", [2, 3, 6, 26])
@pytest.mark.parametrize("seed", range(5))
def test_forgetting_is_at_least_what_transfer_takes(phases, seed):
    """The best earlier accuracy is at least that on arrival; where it is that, the two are one figure."""
    result = random_run(phases, seed)
    assert result.average_forgetting >= -result.backward_transfer - 1e-9
    falling = run_of(np.where(np.isnan(result.matrix), np.nan, result.matrix.diagonal() - np.arange(phases)[:, None]))
    assert falling.average_forgetting == pytest.approx(-falling.backward_transfer)
    if phases == 2:
        assert result.average_forgetting == pytest.approx(-result.backward_transfer)
        assert result.average_forgetting == pytest.approx(result.forgetting)
    elif (np.nanargmax(result.matrix[:-1, :-1], axis=0) != np.arange(phases - 1)).any():
        assert result.average_forgetting > -result.backward_transfer


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


def test_a_mean_is_of_all_runs_or_there_is_none():
    runs = [{"seed": 0, "forgetting": 1.0, "average_forgetting": 5.0}, {"seed": 1, "forgetting": 3.0}]
    assert mean_of_runs(runs, "forgetting") == pytest.approx((2.0, 1.0))
    assert mean_of_runs(runs, "average_forgetting") == (None, None)
    assert mean_of_runs(runs, "backward_transfer") == (None, None)


def test_a_comparison_has_forgetting_and_transfer_with_errors():
    run = {"method": "lwf", "exemplars": "herding", "average_accuracy": 50.0, "last_accuracy": 40.0}
    figures = {"forgetting": (1.0, 3.0), "average_forgetting": (5.0, 6.0), "backward_transfer": (-4.0, -1.0)}
    runs = [{**run, "seed": seed} | {key: two[seed] for key, two in figures.items()} for seed in (0, 1)]
    (row,) = comparison(runs)
    for key, (one, two) in figures.items():
        assert row[f"{key}_mean"] == pytest.approx((one + two) / 2)
        assert row[f"{key}_sem"] == pytest.approx(abs(one - two) / 2)


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
