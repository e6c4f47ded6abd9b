"""Batch normalisation with residual sum and ReLU: compiled kernels and XLA's programs against float64, at any order."""

import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mnemonics_jax.nets.layers import normalise
from mnemonics_jax.runtime import kernels

WITH_KERNELS = pytest.mark.skipif(
    jax.default_backend() != "cpu" or not shutil.which("c++"), reason="the kernels are for CPU and need a compiler"
)
ACTIVATIONS = pytest.mark.parametrize(("summed", "relu"), [(False, False), (False, True), (True, False), (True, True)])


def formula(x, scale, bias, residual=None, relu=False):
    """The definition, without a derivative of its own."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    y = scale * (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(axes) + 1e-5) + bias
    y = y if residual is None else y + residual
    return jax.nn.relu(y) if relu else y


def draw(shape, summed, seed=0, offset=0.0):
    """Arguments of `normalise` and weights of its result, float32."""
    rng = np.random.default_rng(seed)
    x = rng.normal(offset, rng.uniform(0.5, 2, shape[-1]), shape)
    scale, bias = rng.normal(1, 0.3, shape[-1]), rng.normal(size=shape[-1])
    arrays = (x, scale, bias, rng.normal(size=shape) if summed else None, rng.normal(size=shape))
    return [None if a is None else jnp.asarray(a, jnp.float32) for a in arrays]


def first(function, relu, weights):
    """The gradient of a weighted sum of the result, by all arguments."""

    def gradient(*args):
        return jax.grad(lambda *a: jnp.sum(weights * function(*a, relu)), argnums(args))(*args)

    return gradient


def second(function, relu, weights):
    """The gradient, by all arguments, of a function of the gradient of a curved function of the result."""

    def gradient(*args):
        def inner(*a):
            return jax.grad(lambda *b: jnp.sum(weights * jnp.sin(function(*b, relu))), argnums(args))(*a)

        return jax.grad(lambda *a: sum(jnp.sum(jnp.cos(g)) for g in inner(*a)), argnums(args))(*args)

    return gradient


def argnums(args):
    return tuple(i for i, arg in enumerate(args) if arg is not None)


def own(x, scale, bias, residual, relu):
    return normalise(x, scale, bias, residual, relu)[0]


def wide(arrays):
    return [None if a is None else jnp.asarray(a, jnp.float64) for a in arrays]


def assert_near(ours, theirs, tolerance=3e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


# Fewer pixels than a row of the kernel, several blocks with a part of a row, more channels than a row holds.
@WITH_KERNELS
@settings(max_examples=25, deadline=None, derandomize=True)
@example(shape=(70, 3, 3), channels=300, summed=True, relu=True, seed=0)
@example(shape=(16, 33, 31), channels=5, summed=False, relu=True, seed=1)
@given(
    shape=st.sampled_from([(7,), (1, 2, 3), (3, 5, 7), (9, 16, 16)]),
    channels=st.sampled_from([1, 2, 3, 5, 16, 17, 32, 64, 100]),
    summed=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_kernels_give_value_statistics_and_gradient(shape, channels, summed, relu, seed):
    *args, weights = draw((*shape, channels), summed, seed)
    assert kernels.supports(args[0])

    @jax.jit
    def value_and_gradients(*args):
        return normalise(*args, relu), first(own, relu, weights)(*args)

    (y, mean, var), gradients = value_and_gradients(*args)
    x, scale, bias, residual, y_bar = (None if a is None else np.asarray(a, np.float64) for a in (*args, weights))
    axes = tuple(range(x.ndim - 1))
    unit = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
    plain = scale * unit + bias + (0 if residual is None else residual)
    assert_near((y, mean, var), (np.maximum(plain, 0) if relu else plain, x.mean(axes), x.var(axes)))
    # Where a number lies at zero but for rounding, both subgradients are right.
    if relu and np.abs(plain).min() < 1e-5:
        return
    g = y_bar * (plain > 0) if relu else y_bar
    x_bar = scale / np.sqrt(x.var(axes) + 1e-5) * (g - g.mean(axes) - unit * (g * unit).mean(axes))
    bars = (x_bar, (g * unit).sum(axes), g.sum(axes), g)
    assert_near(gradients, bars if summed else bars[:3], 1e-4)


@WITH_KERNELS
def test_the_variance_survives_a_large_mean():
    """With Σx² − (Σx)²/n in float32, nothing of it would be left."""
    x, scale, bias, _, _ = draw((64, 16, 16, 16), False, offset=3000.0)
    y, mean, var = normalise(x, scale, bias)
    pixels = np.asarray(x, np.float64).reshape(-1, 16)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-7)
    np.testing.assert_allclose(var, pixels.var(0), rtol=1e-4)
    with jax.enable_x64(True):
        assert_near(y, formula(*wide((x, scale, bias))), 1e-3)


@ACTIVATIONS
def test_both_orders_in_float64_are_those_of_the_formula(summed, relu):
    with jax.enable_x64(True):
        *args, weights = wide(draw((3, 2, 4, 5), summed))
        for order in (first, second):
            assert_near(order(own, relu, weights)(*args), order(formula, relu, weights)(*args), 1e-9)


@WITH_KERNELS
@ACTIVATIONS
def test_a_gradient_of_the_kernels_gradient(summed, relu):
    *args, weights = draw((4, 6, 5, 3), summed, seed=5)
    ours = jax.jit(second(own, relu, weights))(*args)
    with jax.enable_x64(True):
        *args, weights = wide((*args, weights))
        assert_near(ours, second(formula, relu, weights)(*args), 2e-4)


@WITH_KERNELS
@pytest.mark.parametrize("summed", [False, True])
def test_lanes_of_a_vmap_have_the_bits_of_each_alone(summed):
    """Lanes of several blocks, under two vmaps, of which one leaves scale and bias as they are."""
    x, scale, bias, residual, weights = draw((2, 3, 12, 12, 13, 16), summed)

    def both(x, residual, weights, scale):
        y, *statistics = normalise(x, scale, bias, residual, True)
        bars = first(own, True, weights)(x, scale, bias, residual)
        return y, statistics, bars

    scales = jnp.stack([scale, 2 * scale])
    arrays = (x, residual, weights)
    batched = jax.jit(jax.vmap(jax.vmap(both, (0, 0, 0, None))))
    assert batched.lower(*arrays, scales).as_text().count("stablehlo.while") == 0
    together = batched(*arrays, scales)
    for i in range(2):
        for j in range(3):
            alone = jax.jit(both)(*(None if a is None else a[i, j] for a in arrays), scales[i])
            for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
                assert np.array_equal(ours[i, j], theirs)


@WITH_KERNELS
def test_descent_in_a_scan_is_that_of_xlas_programs(monkeypatch):
    x, scale, bias, residual, weights = draw((8, 6, 6, 4), True)

    def descend(x):
        def step(x, _):
            return x - 0.1 * first(own, True, weights)(x, scale, bias, residual)[0], None

        return jax.lax.scan(step, x, None, length=5)[0]

    ours = jax.jit(descend)(x)
    monkeypatch.setattr(kernels, "supports", lambda x: False)
    assert_near(ours, jax.jit(lambda x: descend(x))(x))


@WITH_KERNELS
def test_the_kernels_serve_float32_only():
    lowered = [
        jax.jit(first(own, True, jnp.ones((2, 3, 4))))
        .lower(jnp.ones((2, 3, 4), dtype), jnp.ones(4), jnp.ones(4), jnp.ones((2, 3, 4), dtype))
        .as_text()
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    assert "@mnemonics_normalise_gradient" in lowered[0]
    assert "@mnemonics" not in lowered[1]


@pytest.mark.parametrize("supported", [pytest.param(True, marks=WITH_KERNELS), False])
def test_what_is_not_a_number_is_seen_and_a_constant_channel_is_harmless(supported, monkeypatch):
    if not supported:
        monkeypatch.setattr(kernels, "supports", lambda x: False)
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    x[:, :, 1] = 0.1
    x[2, 2, 2] = np.nan
    y, mean, var = normalise(jnp.asarray(x), jnp.ones(3), jnp.full(3, 0.5), relu=True)
    assert np.isfinite(y[..., :2]).all()
    np.testing.assert_allclose(y[..., 1], 0.5, atol=1e-4)
    np.testing.assert_allclose(var[1], 0, atol=1e-9)
    assert np.isnan(y[..., 2]).all()
    assert np.isnan(mean[2])


BITS = """
import hashlib, jax, numpy as np, test_normalisation as t
*args, weights = t.draw((48, 16, 16, 16), True)
results = t.normalise(*args, True), t.first(t.own, True, weights)(*args)
print(hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(results))).hexdigest())
"""


@WITH_KERNELS
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose the number of threads")
def test_the_bits_do_not_depend_on_the_number_of_threads():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.path.dirname(__file__)])}
    said = set()
    for some in (cores, cores[:1]):
        pin = f"import os; os.sched_setaffinity(0, {some})\n"
        command = [sys.executable, "-c", pin + BITS]
        said.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(said) == 1
