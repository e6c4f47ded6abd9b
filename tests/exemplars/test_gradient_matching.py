"""Gradient matching: kernels are those of true gradients, and subsets are the best that exchanges can find."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Events

from mnemonics_jax.exemplars.gradient_matching import GradientMatching, gradient_kernel, match_mean, unit_variance
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.phase import exemplar_choice
from mnemonics_jax.phase.forgetful import Pool
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state


def distance(gradients, subset, typicality=0.0):
    mean, chosen = gradients.mean(axis=0), gradients[list(subset)]
    spread = np.square(chosen - mean).sum(axis=1).mean()
    return np.square(mean - chosen.mean(axis=0)).sum() + typicality / len(chosen) ** 2 * spread


@pytest.fixture
def gradients():
    return np.random.default_rng(0).normal(size=(14, 6)) + 1


@pytest.mark.parametrize("typicality", [0.0, 2.0, 12.0])
def test_the_subset_is_nearly_the_best_of_all(gradients, typicality):
    kernel = gradients @ gradients.T
    picks = match_mean(kernel, 4, np.random.default_rng(0), typicality)
    all_distances = np.sort([distance(gradients, s, typicality) for s in itertools.combinations(range(14), 4)])
    assert len(set(picks.tolist())) == 4
    assert distance(gradients, picks, typicality) <= all_distances[len(all_distances) // 100]


@pytest.mark.parametrize("typicality", [0.0, 2.0, 12.0])
def test_no_exchange_of_one_image_helps(gradients, typicality):
    picks = match_mean(gradients @ gradients.T, 5, np.random.default_rng(0), typicality).tolist()
    own = distance(gradients, picks, typicality)
    for out, new in itertools.product(picks, set(range(14)) - set(picks)):
        assert distance(gradients, [new if p == out else p for p in picks], typicality) >= own - 1e-9


def test_where_only_typical_images_count_they_are_the_nearest_to_the_mean(gradients):
    picks = match_mean(gradients @ gradients.T, 4, np.random.default_rng(0), 1e6).tolist()
    assert picks == np.square(gradients - gradients.mean(axis=0)).sum(axis=1).argsort()[:4].tolist()


def test_two_outliers_with_the_right_mean_give_way_to_typical_images():
    gradients = np.array([[9.0, 0], [-9, 0], [0, 0.4], [0.3, 0.4], [-0.3, 0.5], [0, -1.3]])
    picks = [match_mean(gradients @ gradients.T, 2, np.random.default_rng(0), t).tolist() for t in (0.0, 2.0)]
    assert sorted(picks[0]) == [0, 1]
    assert not set(picks[1]) & {0, 1}


def test_the_first_image_is_the_best_single_one_of_the_chosen(gradients):
    picks = match_mean(gradients @ gradients.T, 5, np.random.default_rng(0)).tolist()
    assert distance(gradients, picks[:1]) == min(distance(gradients, [p]) for p in picks)


def test_all_images_can_be_chosen(gradients):
    assert sorted(match_mean(gradients @ gradients.T, 14, np.random.default_rng(0)).tolist()) == list(range(14))


def test_unit_variance_changes_no_choice(gradients):
    kernel = gradients @ gradients.T
    scaled = unit_variance(kernel)
    centred = gradients - gradients.mean(axis=0)
    np.testing.assert_allclose(scaled, centred @ centred.T / np.square(centred).sum(axis=1).mean(), atol=1e-12)
    picks = [match_mean(k, 4, np.random.default_rng(0)).tolist() for k in (kernel, scaled)]
    assert picks[0] == picks[1]


@pytest.mark.parametrize("cosine", [False, True])
def test_the_kernel_is_that_of_the_heads_gradients(cosine):
    rng = np.random.default_rng(1)
    features, kernel = rng.normal(size=(7, 5)), rng.normal(size=(5, 6))
    seen, label = np.array([1, 1, 0, 1, 1, 0], bool), 3

    def logits(weights, bias, x):
        if cosine:
            x, weights = x / jnp.linalg.norm(x), weights / jnp.linalg.norm(weights, axis=0)
        return x @ weights + bias

    def loss(weights, bias, x):
        z = jnp.where(seen, logits(weights, bias, x), -jnp.inf)
        return jax.nn.logsumexp(z) - z[label]

    if cosine:
        kernel /= np.linalg.norm(kernel, axis=0)
    outputs = np.stack([logits(kernel, np.zeros(6), x) for x in features])
    own = gradient_kernel(outputs, features, label, seen, cosine=cosine)
    rows = []
    for x in features:
        by_weights, by_bias = jax.grad(loss, argnums=(0, 1))(kernel, np.zeros(6), x)
        if cosine:
            # By unit vectors: what the normalisation of the weights projects out is put back by d loss / d logits.
            error = np.asarray(by_bias)
            rows.append(np.outer(x / np.linalg.norm(x), error).ravel())
        else:
            rows.append(np.append(by_weights, by_bias))
    expected = np.stack(rows) @ np.stack(rows).T
    np.testing.assert_allclose(own, expected / np.diag(expected).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("typicality", [0.0, 120.0])
@pytest.mark.parametrize("kind", [GradientMatching, partial(Mnemonics, start="gradient")])
def test_kinds_that_match_gradients(kind, typicality, gradients):
    kind = kind(typicality=typicality)
    assert kind.needs_gradients
    assert not kind.needs_features
    kernel = gradients @ gradients.T
    (picks,) = kind.choose([kernel], 4, 14, np.random.default_rng(0))
    np.testing.assert_array_equal(picks, match_mean(kernel, 4, np.random.default_rng(0), typicality))


def test_both_values_of_that_test_choose_differently(gradients):
    kernel = gradients @ gradients.T
    assert len({tuple(match_mean(kernel, 4, np.random.default_rng(0), t)) for t in (0.0, 120.0)}) == 2


@pytest.mark.parametrize("typicality", [0.0, 4.0])
def test_a_phase_chooses_images_that_match_the_gradients_of_forgetful_models(tiny, monkeypatch, typicality):
    """In a later phase too, each class's choice is better by its own measure than the best of 100 random ones."""
    setup, seen = tiny.setup("icarl", "gradient", exemplars={"typicality": typicality}), []
    original = exemplar_choice._kernels

    def noting(setup, state, groups, budget):
        seen.append((groups, original(setup, state, groups, budget), state))
        return seen[-1][1]

    monkeypatch.setattr(exemplar_choice, "_kernels", noting)
    callbacks = Events()
    state = run_phase(setup, run_phase(setup, initial_state(setup), callbacks), callbacks)
    chosen = [values["images"] for name, _, values in callbacks.events if name == "chosen"]
    assert len(seen) == len(chosen) == 2
    assert (state.memory.counts[:6] == 4).all()
    for (groups, kernels, _), images in zip(seen, chosen, strict=True):
        for (label, group), kernel, picked in zip(groups.items(), kernels, images, strict=True):
            assert (setup.stream.train_labels[picked] == label).all()
            place = np.searchsorted(group, picked)
            np.testing.assert_array_equal(group[place], picked)
            rng = np.random.default_rng(0)
            random = [rng.permutation(len(group))[:4] for _ in range(100)]
            # The kernel's vectors have no mean, so its diagonal has their squared distances from it.
            ours, *theirs = [
                kernel[np.ix_(subset, subset)].mean() + typicality / 16 * np.diag(kernel)[subset].mean()
                for subset in (place, *random)
            ]
            assert ours < min(theirs)


def test_kernels_have_gradients_and_features_in_equal_parts(tiny, monkeypatch):
    """Without gradients what is left is the kernel of unit features."""
    setup = tiny.setup("icarl", "gradient")
    state = run_phase(setup, initial_state(setup))._replace(phase=np.asarray(0, np.int32))
    fresh = setup.stream.train_indices(0)
    groups = {c: fresh[setup.stream.train_labels[fresh] == c] for c in range(5)}
    both = exemplar_choice._kernels(setup, state, groups, 4)
    monkeypatch.setattr(exemplar_choice, "gradient_kernel", lambda z, *_, cosine: np.zeros((len(z), len(z))))
    features_alone = exemplar_choice._kernels(setup, state, groups, 4)
    features = exemplar_choice._features(setup, state, groups)
    for whole, part, rows in zip(both, features_alone, features, strict=True):
        centred = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        centred = (centred - centred.mean(axis=0)).astype(np.float64)
        expected = centred @ centred.T / np.square(centred).sum(axis=1).mean()
        np.testing.assert_allclose(part, expected, atol=1e-5)
        assert np.diag(whole).mean() == pytest.approx(2)
        assert np.diag(whole - part).mean() == pytest.approx(1)


def test_models_of_the_pool_forget_what_they_are_to_forget(tiny):
    setup = tiny.setup("icarl", "gradient")
    state = run_phase(setup, initial_state(setup))._replace(phase=np.asarray(0, np.int32))
    pool = Pool(setup, state, 32, np.zeros(0, np.int64))
    lost = pool.lost(2)
    model = pool.forgetful(2, np.full(30, 0.05, np.float32))
    fresh = setup.stream.train_indices(0)
    labels = setup.stream.train_labels[fresh]
    store = setup.samples(state.memory, fresh).store
    seen = setup.stream.masks(0).seen
    logits = exemplar_choice.embed(setup.net, setup.augmentation, model, store, fresh).logits
    right = np.where(seen, logits, -np.inf).argmax(axis=1) == labels
    assert right[np.isin(labels, lost)].mean() < 0.2
    assert right[~np.isin(labels, lost)].mean() > 0.6
    back = pool.replay(model, state.memory, 2, np.full(30, 0.02, np.float32))
    logits = exemplar_choice.embed(setup.net, setup.augmentation, back, store, fresh).logits
    again = np.where(seen, logits, -np.inf).argmax(axis=1) == labels
    assert again[np.isin(labels, lost)].mean() > right[np.isin(labels, lost)].mean() + 0.3
