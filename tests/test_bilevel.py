"""The meta-gradients against finite differences, closed forms and hand-written adjoints; memory as compiled."""

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

REMATS = ("none", "step", "segments")
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
    value = jax.jit(jax.vmap(lambda x: function(unravel(x))))
    return unravel((value(flat + shifts) - value(flat - shifts)) / (2 * step))


def assert_parts_close(actual, expected, tolerance):
    """Each part of the meta-variables by its own relative error, so that a large part cannot hide a small one."""
    for name in expected:
        a, e = ravel_pytree(actual[name])[0], ravel_pytree(expected[name])[0]
        assert jnp.linalg.norm(e) > 1e-4, f"{name} has no signal to compare"
        assert jnp.linalg.norm(a - e) <= tolerance * jnp.linalg.norm(e), name


@functools.cache
def numeric_meta_gradient(optimizer):
    meta, rows, queries = classification(steps=7)

    def value(meta):
        fitted = unroll(soft_label_loss, learned_rates(optimizer), meta["start"], meta, rows)
        return query_loss(fitted, meta, queries)

    return central_differences(value, meta)


@pytest.mark.parametrize("remat", REMATS)
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
        _, gradient = jax.jit(function)(meta, None, rows, queries)
        assert_parts_close(gradient, numeric_meta_gradient(optimizer), 1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 9])
def test_remat_changes_nothing_but_the_cost(steps):
    x, y, theta, cotangent = regression()
    with jax.enable_x64(True):
        results = [fitted_regression(x, y, theta, cotangent, steps, Unroll(remat=remat)) for remat in REMATS]
        for value, gradient in results[1:]:
            np.testing.assert_allclose(value, results[0][0], rtol=1e-14)
            assert_parts_close(gradient, results[0][1], 1e-13)


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
        value, gradient = jax.jit(function)(meta, None, None, jnp.asarray(cotangent))
        np.testing.assert_allclose(value, cotangent @ (centre + product @ (start - centre)), rtol=1e-12)
        assert_parts_close(gradient, expected, 1e-12)


RATE, MOMENTUM = 0.2, 0.7


def regression():
    rng = np.random.default_rng(2)
    return rng.normal(size=(6, 3)), rng.normal(size=6), rng.normal(size=3), rng.normal(size=3)


def adjoint_by_hand(x, y, theta, cotangent, steps, kept, first_order):
    """d(cᵀΘ_T)/dX and d/dΘ_0 for least squares |XΘ − y|²/2n fitted by heavy-ball descent, in plain NumPy."""
    n, trajectory, velocity = len(y), [theta], np.zeros_like(theta)
    for _ in range(steps):
        velocity = MOMENTUM * velocity + x.T @ (x @ theta - y) / n
        theta = theta - RATE * velocity
        trajectory.append(theta)
    of_theta, of_velocity, of_x = cotangent, np.zeros_like(cotangent), np.zeros_like(x)
    for t in reversed(range(steps - kept, steps)):
        of_velocity = of_velocity - RATE * of_theta
        of_x += (np.outer(x @ trajectory[t] - y, of_velocity) + np.outer(x @ of_velocity, trajectory[t])) / n
        if not first_order:
            of_theta = of_theta + x.T @ (x @ of_velocity) / n
        of_velocity = MOMENTUM * of_velocity
    return {"x": of_x, "start": of_theta if kept == steps else np.zeros_like(theta)}


def fitted_regression(x, y, theta, cotangent, steps, config):
    function = meta_value_and_grad(
        lambda theta, meta, c: c @ theta,
        lambda theta, meta, _: 0.5 * jnp.mean((meta["x"] @ theta - y) ** 2),
        optax.sgd(RATE, momentum=MOMENTUM),
        start=lambda meta, init: meta["start"],
        length=steps,
        config=config,
    )
    return jax.jit(function)({"x": jnp.asarray(x), "start": jnp.asarray(theta)}, None, None, jnp.asarray(cotangent))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    ("remat", "kept"), [("step", None), ("step", 7), ("step", 1), ("step", 5), ("none", 5), ("segments", 5)]
)
def test_truncated_and_first_order_gradients_are_those_derived_by_hand(remat, first_order, kept):
    x, y, theta, cotangent = regression()
    expected = adjoint_by_hand(x, y, theta, cotangent, 7, kept or 7, first_order)
    with jax.enable_x64(True):
        config = Unroll(remat=remat, truncate=kept, first_order=first_order)
        _, gradient = fitted_regression(x, y, theta, cotangent, 7, config)
        for name in expected:
            np.testing.assert_allclose(gradient[name], expected[name], rtol=1e-11, atol=1e-14)


def test_truncation_also_cuts_what_a_loss_closes_over():
    x, y, theta, cotangent = regression()
    expected = adjoint_by_hand(x, y, theta, cotangent, 7, 2, first_order=False)["x"]
    with jax.enable_x64(True):

        def value(x):
            def loss(theta, meta, batch):
                return 0.5 * jnp.mean((x @ theta - y) ** 2)

            optimizer = optax.sgd(RATE, momentum=MOMENTUM)
            fitted = unroll(loss, optimizer, jnp.asarray(theta), None, length=7, config=Unroll(truncate=2))
            return cotangent @ fitted

        np.testing.assert_allclose(jax.grad(value)(jnp.asarray(x)), expected, rtol=1e-11)


def test_one_step_is_one_update():
    with jax.enable_x64(True):
        x, y, theta, _ = map(jnp.asarray, regression())
        fitted = unroll(
            lambda theta, x, target: 0.5 * jnp.mean((x @ theta - target) ** 2), optax.sgd(RATE), theta, x, y[None]
        )
        np.testing.assert_allclose(fitted, theta - RATE * x.T @ (x @ theta - y) / 6, rtol=1e-13)


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


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * square(x) * g,))


@jax.custom_vjp
def square(x):
    return x * x


square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))


@pytest.mark.parametrize("remat", REMATS)
@pytest.mark.parametrize("truncate", [None, 3])
def test_custom_backward_rules_are_differentiated(remat, truncate):
    """`custom_vjp` refuses forward mode, so this also shows that none is used."""

    def gradient(power, config):
        function = meta_value_and_grad(
            lambda theta, meta, _: jnp.sum(power(theta) * meta),
            lambda theta, meta, _: jnp.sum(power(theta * meta)) / 3,
            optax.adam(0.1, eps_root=1e-8),
            length=5,
            config=config,
        )
        return jax.jit(function)(jnp.array([0.7, -1.2]), jnp.array([0.4, 0.9]), None, None)[1]

    with jax.enable_x64(True):
        expected = gradient(lambda x: x**3, Unroll(remat="none", truncate=truncate))
        np.testing.assert_allclose(gradient(cube, Unroll(remat, truncate)), expected, rtol=1e-12)


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
        assert jnp.isnan(function(0.0)(pixels, theta, None, queries)[1]).any()
        gradient = function(1e-16)(pixels, theta, None, queries)[1]
        numeric = central_differences(lambda m: function(1e-16)(m, theta, None, queries)[0], pixels)
        assert_parts_close({"pixels": gradient}, {"pixels": numeric}, 1e-6)


def temporary_memory(steps, config, width=32, batch=512):
    """Bytes of the compiled meta-gradient of an MLP's training inputs, which outweigh its weights."""

    def loss(params, pixels, _):
        for weight in params:
            pixels = jnp.tanh(pixels @ weight)
        return jnp.mean(pixels**2)

    function = meta_value_and_grad(
        lambda params, meta, queries: loss(params, queries, None),
        loss,
        optax.sgd(0.1, momentum=0.9),
        length=steps,
        config=config,
    )
    pixels, params = jnp.ones((batch, width)), [jnp.ones((width, width))] * 3
    compiled = jax.jit(function).lower(pixels, params, None, pixels).compile()
    carry = 2 * sum(weight.nbytes for weight in params)
    return compiled.memory_analysis().temp_size_in_bytes, carry


def test_memory_by_mode():
    short, carry = temporary_memory(8, Unroll(remat="step"))
    long, _ = temporary_memory(64, Unroll(remat="step"))
    short_stored, _ = temporary_memory(8, Unroll(remat="none"))
    stored, _ = temporary_memory(64, Unroll(remat="none"))
    segments, _ = temporary_memory(64, Unroll(remat="segments"))
    truncated, _ = temporary_memory(64, Unroll(remat="none", truncate=8))
    assert long <= 1.3 * short + 56 * carry
    assert segments <= 1.3 * short + 2 * 8 * carry
    assert segments < long
    assert stored >= 5 * short_stored > 5 * short
    assert truncated <= 1.3 * short_stored


def test_repeated_calls_compile_once_and_config_is_static():
    traces = []

    def loss(theta, meta, batch):
        traces.append(batch)
        return jnp.sum((theta - meta * batch) ** 2)

    @jax.jit
    def fit(theta, meta, batches):
        return unroll(loss, optax.sgd(0.1), theta, meta, batches)

    fit(jnp.ones(3), jnp.ones(3), jnp.ones((5, 3)))
    first = len(traces)
    for seed in range(3):
        fit(*(jax.random.normal(jax.random.key(seed), shape) for shape in ((3,), (3,), (5, 3))))
    assert len(traces) == first
    assert fit._cache_size() == 1

    by_mode = jax.jit(
        lambda theta, config: unroll(lambda theta, *_: theta @ theta, optax.sgd(0.25), theta, length=2, config=config),
        static_argnums=1,
    )
    for remat in (*REMATS, *REMATS):
        np.testing.assert_allclose(by_mode(jnp.ones(3), Unroll(remat=remat)), 0.25)
    assert by_mode._cache_size() == len(REMATS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: Unroll(truncate=0), "truncate=0"),
        (lambda fit: fit(None, length=3, config=Unroll(truncate=4)), "truncate=4 exceeds the 3"),
        (lambda fit: fit(jnp.ones((0, 2))), "^0 inner steps"),
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
    ridge = load("experiments/bilevel_ridge.py")
    with jax.enable_x64(True):
        rows = ridge.compare(ridge.Config(steps=(2, 20, 80)))
    for row in rows:
        assert 0.1 * row.bound < row.gradient_error < 2 * row.bound
        assert row.answer_error < 3 * row.bound
    assert rows[-1].gradient_error < 1e-6
    assert rows[-1].answer_error < 1e-6
