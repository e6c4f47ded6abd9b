"""The meta-gradients against finite differences and closed forms, and what the caller gets and may pass."""

import doctest
import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from mnemonics_jax import bilevel
from mnemonics_jax.bilevel import Unroll, meta_value_and_grad, unroll

# These programs run for microseconds and compile for seconds, so the compiler is told not to try hard.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.8, nesterov=True),
    "adam": lambda rate: optax.adam(rate, eps_root=1e-8),
}


def classifier(params, pixels):
    return jnp.tanh(pixels @ params["in"] + params["bias"]) @ params["out"]


def soft_label_loss(params, meta, rows):
    labels = jax.nn.softmax(meta["labels"][rows])
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(classifier(params, meta["pixels"][rows])), axis=-1))


def query_loss(params, meta, queries):
    pixels, classes = queries
    return optax.softmax_cross_entropy_with_integer_labels(classifier(params, pixels), classes).mean()


def classification(steps):
    """Meta-variables of every kind at once, the examples that each step sees, and a query set; float64."""
    rng = np.random.default_rng(0)
    shapes = {"in": (3, 3), "bias": (3,), "out": (3, 2)}
    meta = {
        "pixels": rng.normal(size=(5, 3)),
        "labels": rng.normal(size=(5, 2)),
        "rates": rng.uniform(0.1, 0.3, size=steps),
        "start": {name: rng.normal(size=shape) for name, shape in shapes.items()},
    }
    rows = rng.integers(0, 5, size=(steps, 3))
    queries = (rng.normal(size=(7, 3)), rng.integers(0, 2, size=7))
    return jax.tree.map(jnp.asarray, (meta, rows, queries))


def learned_rates(optimizer):
    return lambda meta, step: OPTIMIZERS[optimizer](meta["rates"][step])


def central_differences(function, tree, step=1e-5):
    flat, unravel = ravel_pytree(tree)
    shifts = step * jnp.eye(flat.size)
    value = jit(jax.vmap(lambda x: function(unravel(x))))
    return unravel((value(flat + shifts) - value(flat - shifts)) / (2 * step))


def assert_parts_close(actual, expected, tolerance):
    """Each part of the meta-variables by its own relative error, so that a large part cannot hide a small one."""
    for name in expected:
        a, e = (np.concatenate([*map(np.ravel, jax.tree.leaves(tree[name]))]) for tree in (actual, expected))
        assert np.linalg.norm(e) > 1e-4, f"{name} has no signal to compare"
        assert np.linalg.norm(a - e) <= tolerance * np.linalg.norm(e), name


@functools.cache
def numeric_meta_gradient(optimizer):
    meta, rows, queries = classification(steps=7)

    def value(meta):
        fitted = unroll(soft_label_loss, learned_rates(optimizer), meta["start"], meta, rows)
        return query_loss(fitted, meta, queries)

    return central_differences(value, meta)


@pytest.mark.parametrize("remat", ["none", "step", "segments"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_meta_gradient_is_that_of_central_differences(optimizer, remat):
    with jax.enable_x64(True):
        meta, rows, queries = classification(steps=7)
        function = meta_value_and_grad(
            query_loss,
            soft_label_loss,
            learned_rates(optimizer),
            start=lambda meta, init: meta["start"],
            config=Unroll(remat=remat),
        )
        _, gradient = jit(function)(meta, None, rows, queries)
        assert_parts_close(gradient, numeric_meta_gradient(optimizer), 1e-6)


def quadratic(steps):
    rng = np.random.default_rng(1)
    root = rng.normal(size=(4, 4))
    hessian = root @ root.T / 4 + 0.1 * np.eye(4)
    centre, start, cotangent = rng.normal(size=(3, 4))
    return hessian, centre, start, cotangent, rng.uniform(0.05, 0.2, size=steps)


def test_quadratic_inner_problem_has_the_closed_form():
    """Θ_T = c + Π(I − α_t H)(Θ_0 − c): the value, and its derivatives by c, Θ_0 and every α_t."""
    hessian, centre, start, cotangent, rates = quadratic(6)
    factors = [np.eye(4) - rate * hessian for rate in rates]
    product = np.linalg.multi_dot(factors)
    others = [np.linalg.multi_dot([*factors[:t], *factors[t + 1 :]]) for t in range(6)]
    expected = {
        "centre": cotangent - product.T @ cotangent,
        "start": product.T @ cotangent,
        "rates": np.array([-cotangent @ hessian @ other @ (start - centre) for other in others]),
    }
    with jax.enable_x64(True):
        function = meta_value_and_grad(
            lambda theta, meta, c: c @ theta,
            lambda theta, meta, _: 0.5 * (theta - meta["centre"]) @ hessian @ (theta - meta["centre"]),
            lambda meta, step: optax.sgd(meta["rates"][step]),
            start=lambda meta, init: meta["start"],
            length=6,
        )
        meta = jax.tree.map(jnp.asarray, {"centre": centre, "start": start, "rates": rates})
        value, gradient = jit(function)(meta, None, None, jnp.asarray(cotangent))
        np.testing.assert_allclose(value, cotangent @ (centre + product @ (start - centre)), rtol=1e-12)
        assert_parts_close(gradient, expected, 1e-12)


def test_one_step_is_one_update():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        x, y, theta = (jnp.asarray(rng.normal(size=shape)) for shape in ((6, 3), 6, 3))
        fitted = unroll(
            lambda theta, x, target: 0.5 * jnp.mean((x @ theta - target) ** 2), optax.sgd(0.2), theta, x, y[None]
        )
        np.testing.assert_allclose(fitted, theta - 0.2 * x.T @ (x @ theta - y) / 6, rtol=1e-13)


def test_batches_and_step_index_arrive_in_order():
    """With loss −bΘ the steps add rate_t · b_t: distinct powers show which batch met which rate."""
    batches, rates = 10.0 ** jnp.arange(4), jnp.array([1.0, 2.0, 3.0, 4.0])
    for config in (Unroll("none"), Unroll("step"), Unroll("segments"), Unroll("segments", truncate=3)):
        fitted = unroll(
            lambda theta, meta, batch: -batch * theta,
            lambda meta, step: optax.sgd(meta[step]),
            jnp.array(0.0),
            rates,
            batches,
            config=config,
        )
        assert fitted == 4321.0


def test_aux_and_init_reach_the_caller():
    function = meta_value_and_grad(
        lambda theta, meta, batch: (theta * meta, {"fitted": theta, "batch": batch}),
        lambda theta, meta, _: 0.5 * theta**2,
        optax.sgd(0.5),
        start=lambda meta, init: meta + init,
        length=1,
        has_aux=True,
    )
    (value, aux), gradient = function(jnp.array(2.0), jnp.array(4.0), None, jnp.array(7.0))
    # Θ_1 = (m + i)/2 = 3, F = mΘ_1, dF/dm = Θ_1 + m/2.
    assert (value, aux["fitted"], aux["batch"], gradient) == (6.0, 3.0, 7.0, 4.0)


def test_adam_needs_eps_root_where_a_gradient_is_zero():
    """A dead unit: its weights have exactly zero gradient. The constant must cure the NaN and not bend the rest."""

    def function(eps_root):
        return meta_value_and_grad(
            lambda theta, meta, x: jnp.sum((jax.nn.relu(x @ theta) - 1) ** 2),
            lambda theta, pixels, _: jnp.mean((jnp.sum(jax.nn.relu(pixels @ theta), axis=-1) - 1) ** 2),
            optax.adam(0.05, eps_root=eps_root),
            length=4,
        )

    with jax.enable_x64(True):
        # The second column meets every input with a negative product.
        pixels, queries = jnp.array([[1.0, 2.0], [0.5, 1.5]]), jnp.array([[2.0, 1.0]])
        theta = jnp.array([[0.5, -1.0], [0.4, -1.0]])
        assert jnp.isnan(jit(function(0.0))(pixels, theta, None, queries)[1]).any()
        gradient = jit(function(1e-16))(pixels, theta, None, queries)[1]
        numeric = central_differences(lambda m: function(1e-16)(m, theta, None, queries)[0], pixels)
        assert_parts_close({"pixels": gradient}, {"pixels": numeric}, 1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: Unroll(truncate=0), "truncate=0"),
        (lambda fit: fit(None, length=3, config=Unroll(truncate=4)), "truncate=4 exceeds the 3"),
        (lambda fit: fit(None, length=-1), "^-1 inner steps"),
        (lambda fit: fit(None), "length=None"),
        (lambda fit: fit(jnp.ones((3, 2)), length=5), r"\((3|5),\), \((3|5),\)"),
    ],
)
def test_mistakes_name_the_value(call, message):
    def fit(batches, **kwargs):
        return unroll(lambda theta, meta, batch: theta**2, optax.sgd(0.1), jnp.array(1.0), None, batches, **kwargs)

    with pytest.raises(ValueError, match=message):
        call(fit)


def test_no_step_at_all_leaves_what_start_makes():
    """T = 0: an inner problem that `start` solves in closed form. F = (c m² − 3)², so dF/dm = 4 c m (c m² − 3)."""

    def never(*_):
        raise AssertionError("no inner step, no inner loss")

    function = meta_value_and_grad(
        lambda theta, m, _: (theta - 3.0) ** 2, never, optax.sgd(0.1), start=lambda m, c: c * m**2, length=0
    )
    value, gradient = jax.jit(function)(jnp.float32(1.5), jnp.float32(2.0), None, None)
    np.testing.assert_allclose([value, gradient], [(2 * 2.25 - 3) ** 2, 4 * 2 * 1.5 * (2 * 2.25 - 3)], rtol=1e-6)


def load(path):
    """The module at `path` below the repository's root, outside the import hook that checks types."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "."), Path(__file__).parents[1] / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_unknown_remat_is_refused_without_a_type_checker_too():
    with pytest.raises(ValueError, match="remat='steps'"):
        load("mnemonics_jax/bilevel.py").Unroll(remat="steps")


def test_the_documented_example_runs():
    results = doctest.testmod(bilevel)
    assert results.attempted > 0
    assert results.failed == 0


def test_ridge_experiment_converges_to_the_exact_answer():
    ridge = load("experiments/examples/bilevel_ridge.py")
    with jax.enable_x64(True):
        rows = ridge.compare(ridge.Config(steps=(2, 20, 80)))
    for row in rows:
        assert 0.1 * row.bound < row.gradient_error < 2 * row.bound
        assert row.answer_error < 3 * row.bound
    assert rows[-1].gradient_error < 1e-6
    assert rows[-1].answer_error < 1e-6
