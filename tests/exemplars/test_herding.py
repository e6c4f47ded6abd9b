"""Herding against the greedy loop of its definition; random choice."""

import jax
import numpy as np
import pytest

from mnemonics_jax.exemplars.herd import herd, herd_classes
from mnemonics_jax.exemplars.herding import Herding
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.random import Random

SEEDS = range(5)


def features_of(sizes, dim=8, seed=0):
    """Float32 features of different lengths, with a common part as those of one class have."""
    rng = np.random.default_rng(seed)
    return [
        ((rng.normal(size=dim) + rng.normal(size=(n, dim))) * rng.uniform(0.1, 9, (n, 1))).astype(np.float32)
        for n in sizes
    ]


def greedy(rows, amount):
    """p_k = argmin_x ‖μ − (φ(x) + Σ_{j<k} φ(p_j)) / k‖, evaluated for every image left, in float64."""
    phi = [row / np.sqrt(row @ row) for row in rows.astype(np.float64)]
    mean, picks, distances = sum(phi) / len(phi), [], []
    for k in range(1, amount + 1):
        picked = sum((phi[p] for p in picks), np.zeros_like(mean))
        distance = {x: np.linalg.norm(mean - (phi[x] + picked) / k) for x in range(len(phi)) if x not in picks}
        picks.append(min(distance, key=distance.get))
        distances.append(distance[picks[-1]])
    return picks, distances


def distances_of(rows, picks):
    """‖μ − mean of the first k picks‖ for every k."""
    phi = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    prefix_means = np.cumsum(phi[picks], axis=0) / np.arange(1, len(picks) + 1)[:, None]
    return np.linalg.norm(phi.mean(axis=0) - prefix_means, axis=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_picks_are_those_of_the_greedy_loop(seed):
    sizes = (20, 33, 25)
    classes = features_of(sizes, seed=seed)
    padded, valid = np.zeros((3, 33, 8)), np.zeros((3, 33), bool)
    for c, rows in enumerate(classes):
        padded[c, : len(rows)], valid[c, : len(rows)] = rows, True
        padded[c, len(rows) :] = 100.0  # what stands in a row that is not valid must not matter
    with jax.enable_x64(True):
        picks = np.asarray(herd(padded, valid, 20))
    for c, rows in enumerate(classes):
        assert picks[c].tolist() == greedy(rows, 20)[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_classes_of_different_size_in_float32(seed):
    """More classes than one group herds at once."""
    classes = features_of(np.random.default_rng(seed).integers(6, 15, 40), seed=seed)
    for rows, picks in zip(classes, herd_classes(classes, 6, 14), strict=True):
        assert picks.tolist() == greedy(rows, 6)[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_duplicates_are_picked_one_at_a_time(seed):
    """Which of two equal images comes first is open, so the distances to the mean are compared, not the picks."""
    (rows,) = features_of([9], seed=seed)
    rows = np.concatenate([rows, rows, rows[:3]])
    (picks,) = herd_classes([rows], len(rows), 30)
    assert sorted(picks.tolist()) == list(range(len(rows)))
    np.testing.assert_allclose(distances_of(rows, picks), greedy(rows, len(rows))[1], atol=1e-5)


def test_identical_images_are_all_picked():
    (picks,) = herd_classes([np.ones((5, 3), np.float32)], 5, 8)
    assert sorted(picks.tolist()) == list(range(5))


def test_a_feature_of_zero_length_is_no_trouble():
    (rows,) = features_of([6])
    rows[2] = 0
    (picks,) = herd_classes([rows], 6, 6)
    assert sorted(picks.tolist()) == list(range(6))


def test_a_prefix_is_a_herding_set():
    classes = features_of((12, 9, 17), seed=3)
    whole = herd_classes(classes, 9, 17)
    for amount in (1, 4, 8):
        for picks, prefix in zip(whole, herd_classes(classes, amount, 17), strict=True):
            np.testing.assert_array_equal(prefix, picks[:amount])


def test_neither_room_nor_other_classes_nor_length_of_features_change_the_picks():
    classes = features_of((12, 9, 17), seed=4)
    expected = herd_classes(classes, 9, 17)
    for room in (18, 40):
        for picks, same in zip(herd_classes(classes, 9, room), expected, strict=True):
            np.testing.assert_array_equal(picks, same)
    np.testing.assert_array_equal(herd_classes(classes[1:2], 9, 17)[0], expected[1])
    np.testing.assert_array_equal(herd_classes([classes[1] * np.float32(4)], 9, 17)[0], expected[1])


@pytest.mark.parametrize("kind", [Herding(), Mnemonics(start="herding")])
def test_kinds_that_herd(kind):
    classes = features_of((12, 9), seed=5)
    assert kind.needs_features
    picks = kind.choose(classes, 4, 12, np.random.default_rng(0))
    assert [p.tolist() for p in picks] == [greedy(rows, 4)[0] for rows in classes]


@pytest.mark.parametrize("kind", [Random(), Mnemonics(start="random")])
def test_random_choice_has_no_repetition_and_follows_its_generator(kind):
    assert not kind.needs_features
    nothing = [np.zeros((n, 0), np.float32) for n in (12, 9, 30)]
    first, again, other = (kind.choose(nothing, 9, 30, np.random.default_rng(seed)) for seed in (0, 0, 1))
    for rows, picks, same in zip(nothing, first, again, strict=True):
        assert len(set(picks.tolist())) == 9
        assert set(picks.tolist()) <= set(range(len(rows)))
        np.testing.assert_array_equal(picks, same)
    assert not np.array_equal(first[2], other[2])


def test_random_choice_is_uniform():
    rng = np.random.default_rng(0)
    picks = [Random().choose([np.zeros((6, 0), np.float32)], 2, 6, rng)[0] for _ in range(3000)]
    # 1000 hits expected of each image, standard deviation 26.
    np.testing.assert_allclose(np.bincount(np.concatenate(picks)), 1000, atol=120)
