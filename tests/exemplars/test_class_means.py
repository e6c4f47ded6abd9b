"""Heads in closed form, of class means and by ridge regression: what an inner loop of no steps fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.exemplars.inner import InnerLoop, InnerProblem, InnerProgram, Models, run_inner_loop
from mnemonics_jax.exemplars.inner_batches import InnerBatches
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.nets import NetConfig, build, init
from mnemonics_jax.nets.classifier import apply, apply_head, imprint_means, imprint_ridge
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.settings import check_ranges

CLASSES = 4


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_ranks_classes_by_the_cosine_with_their_mean_unit_feature(head):
    net = build(NetConfig(name="convnet", widths=(4, 6)), CLASSES, head)
    params = init(net, jax.random.key(0), (4, 4, 1)).params
    rng = np.random.default_rng(0)
    features, labels = rng.normal(1, 1, (12, 6)).astype(np.float32), rng.permutation(np.arange(12) % CLASSES)
    used = (np.arange(12) < 9).astype(np.float32)
    imprinted = imprint_means(params, jnp.asarray(features), labels, used)
    assert jax.tree.structure(imprinted) == jax.tree.structure(params)

    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([unit[(labels == c) & (used > 0)].mean(axis=0) for c in range(CLASSES)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    queries = rng.normal(1, 1, (20, 6)).astype(np.float32)
    cosines = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ means.T
    logits = np.asarray(apply_head(net, imprinted, jnp.asarray(queries)).logits)
    if head == "cosine":
        np.testing.assert_allclose(logits, 20 * cosines, rtol=1e-5, atol=1e-5)
    else:
        usual = np.sqrt((features[used > 0] ** 2).sum(axis=1).mean())
        expected = 20 * cosines * np.linalg.norm(queries, axis=1, keepdims=True) / usual
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("strength", [0.1, 3.0])
def test_ridge_minimises_the_squared_error_and_the_weights_length(head, strength):
    """The regression is solved here in feature space, by least squares on rows that stand for the penalty."""
    net = build(NetConfig(name="convnet", widths=(4, 6)), CLASSES, head)
    params = init(net, jax.random.key(0), (4, 4, 1)).params
    rng = np.random.default_rng(1)
    features, labels = rng.normal(1, 1, (12, 6)).astype(np.float32), rng.permutation(np.arange(12) % CLASSES)
    used = (np.arange(12) < 9).astype(np.float32)
    imprinted = imprint_ridge(params, jnp.asarray(features), labels, used, strength)
    assert jax.tree.structure(imprinted) == jax.tree.structure(params)

    rows = features[used > 0].astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    penalised = np.concatenate([unit, np.sqrt(strength) * np.eye(6)])
    targets = np.concatenate([np.eye(CLASSES)[labels[used > 0]], np.zeros((6, CLASSES))])
    kernel = np.linalg.lstsq(penalised, targets, rcond=None)[0]
    queries = rng.normal(1, 1, (20, 6))
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    if head == "cosine":
        expected = 10 * queries / lengths @ (kernel / np.linalg.norm(kernel, axis=0))
    else:
        expected = 10 * queries @ kernel / np.sqrt((rows**2).sum(axis=1).mean())
    logits = np.asarray(apply_head(net, imprinted, jnp.asarray(queries, jnp.float32)).logits)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("imprint", [imprint_means, lambda *args: imprint_ridge(*args, 1.0)], ids=["means", "ridge"])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_a_collapsed_network_gives_a_finite_head(imprint, head):
    net = build(NetConfig(name="convnet", widths=(4, 6)), CLASSES, head)
    params = init(net, jax.random.key(0), (4, 4, 1)).params
    labels, used = np.arange(8) % CLASSES, np.ones(8, np.float32)

    def loss(features):
        return apply_head(net, imprint(params, features, labels, used), features).logits.sum()

    value, gradient = jax.value_and_grad(loss)(jnp.zeros((8, 6)))
    assert value == 0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("flip", [False, True])
def test_without_inner_steps_the_exemplar_model_predicts_as_the_nearest_mean_does(tiny, flip):
    """iCaRL's own rule, mirror images and all, and the classifier of Θᴱ are then one and the same."""
    changes = {"inner_init": "class_means", "unroll_length": 0, "inner_scope": "head"}
    rows = []
    for method in ("icarl", "lwf"):
        setup = tiny.setup(method, "herding", exemplars=changes, data={"flip": flip})
        state = run_phase(setup, initial_state(setup), NoCallbacks())
        rows.append(state.num_correct_exemplar_model[0])
    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.parametrize("settings", [{"unroll_length": 0}, {"unroll_length": 2}], ids=str)
def test_features_in_parts_are_those_of_all_at_once(settings):
    """Value and gradient; 10 slots in parts of 4, the last of which is padded."""
    net = build(NetConfig(name="convnet", widths=(4, 6)), CLASSES, "linear")
    model = init(net, jax.random.key(0), (4, 4, 1))
    rng = np.random.default_rng(0)
    pixels, labels = jnp.asarray(rng.uniform(size=(10, 4, 4, 1)), jnp.float32), jnp.arange(10) % CLASSES
    weights = jnp.asarray(rng.normal(size=CLASSES), jnp.float32)
    slots = np.broadcast_to(np.arange(10, dtype=np.int32), (settings["unroll_length"], 10))
    batches = InnerBatches(jnp.asarray(slots), jnp.ones(slots.shape), jnp.ones(10))

    def total(pixels, inner_batch):
        kind = Mnemonics(inner_init="class_means", inner_scope="head", inner_batch=inner_batch, **settings)
        program = InnerProgram(net, kind, Augmentation(0, False, (0.2,), (1.0,)))
        problem = InnerProblem(Models(model, model, jnp.zeros((), bool)), labels, jnp.ones(CLASSES, bool))
        loop = InnerLoop(program, problem, batches, model, jax.random.key(1))
        fitted = run_inner_loop(loop, loop.encode(pixels, jnp.full(max(slots.shape[0], 1), 0.1)))
        return (apply(net, fitted, pixels[:3]).logits @ weights).sum()

    (whole, slope), (parts, slope_of_parts) = (jax.value_and_grad(total)(pixels, size) for size in (None, 4))
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    np.testing.assert_allclose(slope_of_parts, slope, rtol=1e-3, atol=1e-6)


def check(settings):
    """Checks as a run does: each setting for itself, then one against another."""
    check_ranges(settings, "exemplars.")
    settings.validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unroll_length": 0}, "unroll-length 0"),
        ({"unroll_length": -1, "inner_init": "class_means"}, "unroll-length -1"),
        ({"unroll_length": 0, "inner_init": "ridge", "inner_ridge": 0.0}, "inner-ridge 0.0: has to be greater than 0"),
    ],
    ids=str,
)
def test_mistakes_are_told(changes, message):
    with pytest.raises(UserError, match=message):
        check(Mnemonics(**changes))
