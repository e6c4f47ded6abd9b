"""How the inner loop is differentiated: every mode against adjoints written by hand, and its cost as compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnemonics_jax.bilevel import Unroll, meta_value_and_grad, unroll

# These programs run for microseconds and compile for seconds, so the compiler is told not to try hard.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
REMATS = ("none", "step", "segments")
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
    return jit(function)({"x": jnp.asarray(x), "start": jnp.asarray(theta)}, None, None, jnp.asarray(cotangent))


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


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 9])
def test_remat_changes_nothing_but_the_cost(steps):
    x, y, theta, cotangent = regression()
    with jax.enable_x64(True):
        results = [fitted_regression(x, y, theta, cotangent, steps, Unroll(remat=remat)) for remat in REMATS]
        for value, gradient in results[1:]:
            np.testing.assert_allclose(value, results[0][0], rtol=1e-14)
            for name, part in results[0][1].items():
                error = np.linalg.norm(gradient[name] - part)
                assert error <= 1e-13 * np.linalg.norm(part), name


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
        return jit(function)(jnp.array([0.7, -1.2]), jnp.array([0.4, 0.9]), None, None)[1]

    with jax.enable_x64(True):
        expected = gradient(lambda x: x**3, Unroll(remat="none", truncate=truncate))
        np.testing.assert_allclose(gradient(cube, Unroll(remat, truncate)), expected, rtol=1e-12)


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
    one_left_over, _ = temporary_memory(65, Unroll(remat="segments"))
    assert one_left_over <= 1.1 * segments


@pytest.mark.parametrize(("steps", "batch", "suited"), [(64, 2, "segments"), (8, 2, "step"), (16, 40_000, "step")])
def test_what_is_kept_suits_the_sizes(steps, batch, suited):
    """Parameters of 64 steps are much beside the activations of two samples; those of 8 are little in all."""
    modes = ("auto", "step", "segments")
    memory = {remat: temporary_memory(steps, Unroll(remat), width=256, batch=batch)[0] for remat in modes}
    assert memory["auto"] == memory[suited]
    assert memory["step"] != memory["segments"]


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
