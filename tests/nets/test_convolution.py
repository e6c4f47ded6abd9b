import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from mnemonics_jax.nets.convolution import convolve
from mnemonics_jax.runtime import kernels


def reference(x, kernel, stride):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def derivatives(conv, stride, x, kernel, y_bar, x_bar, kernel_bar):
    """The value, the gradient of a scalar nonlinear in it, and the gradient of a scalar nonlinear in that gradient."""

    def first(x, kernel):
        return jax.grad(lambda x, k: jnp.sum(y_bar * jnp.sin(conv(x, k, stride))), (0, 1))(x, kernel)

    def scalar(x, kernel):
        of_x, of_kernel = first(x, kernel)
        return jnp.sum(x_bar * jnp.sin(of_x)) + jnp.sum(kernel_bar * of_kernel**2)

    return conv(x, kernel, stride), first(x, kernel), jax.grad(scalar, (0, 1))(x, kernel)


def assert_close(ours, theirs, tolerance=1e-9):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        scale = max(1.0, float(jnp.abs(b).max()))
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=tolerance)


def out(size, stride):
    return -(-size // stride)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    size=st.sampled_from([3, 1]),
    stride=st.sampled_from([2, 1]),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels=st.sampled_from([1, 3, 16, 64]),
    features=st.sampled_from([1, 2, 5, 64]),
    seed=st.integers(0, 1000),
)
def test_value_and_two_derivatives_are_those_of_lax(size, stride, height, width, channels, features, seed):
    x_shape, kernel_shape = (2, height, width, channels), (size, size, channels, features)
    y_shape = (2, out(height, stride), out(width, stride), features)
    with jax.enable_x64(True):
        args = arrays(seed, x_shape, kernel_shape, y_shape, x_shape, kernel_shape)
        both = [jax.jit(lambda *a, c=c: derivatives(c, stride, *a))(*args) for c in (convolve, reference)]
        assert both[0][0].shape == y_shape
        assert_close(*both)


def test_five_by_five():
    stride = 2
    with jax.enable_x64(True):
        args = arrays(0, (2, 6, 3, 2), (5, 5, 2, 3), (2, out(6, stride), out(3, stride), 3), (2, 6, 3, 2), (5, 5, 2, 3))
        assert_close(*(jax.jit(lambda *a, c=c: derivatives(c, stride, *a))(*args) for c in (convolve, reference)))


@pytest.mark.parametrize(("stride", "over_kernel"), [(1, False), (2, False), (2, True)])
def test_under_vmap(stride, over_kernel):
    kernel_lead = (3,) if over_kernel else ()
    y = (2, out(5, stride), out(4, stride), 3)
    with jax.enable_x64(True):
        args = arrays(1, (3, 2, 5, 4, 2), (*kernel_lead, 3, 3, 2, 3), (3, *y), (3, 2, 5, 4, 2), (3, 3, 3, 2, 3))
        axes = (0, 0 if over_kernel else None, 0, 0, 0)
        ours = jax.jit(jax.vmap(lambda *a: derivatives(convolve, stride, *a), axes))(*args)
        theirs = jax.jit(lambda *a: derivatives(reference, stride, *a))
        for i in range(3):
            one = [a if axis is None else a[i] for a, axis in zip(args, axes, strict=True)]
            assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], ours), theirs(*one))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradient_through_a_scan_of_gradient_steps(checkpoint):
    """The shape of the meta-gradient: descent on a kernel, unrolled, differentiated with respect to the images."""

    def outer(conv, x, kernel, target):
        def step(kernel, _):
            def loss(k):
                return jnp.mean((conv(jnp.tanh(conv(x, k, 1)), k, 2) - target) ** 2)

            return kernel - 0.1 * jax.grad(loss)(kernel), None

        step = jax.checkpoint(step) if checkpoint else step
        return jnp.sum(jnp.sin(lax.scan(step, kernel, None, length=3)[0]))

    with jax.enable_x64(True):
        args = arrays(2, (2, 5, 6, 2), (3, 3, 2, 2), (2, 3, 3, 2))
        ours, theirs = (jax.jit(jax.grad(lambda *a, c=c: outer(c, *a), (0, 1)))(*args) for c in (convolve, reference))
        assert float(jnp.abs(theirs[0]).max()) > 1e-3
        assert_close(ours, theirs)


def test_third_derivative():
    def third(conv, x, kernel):
        def scalar(x, kernel):
            return jnp.sum(jnp.sin(conv(x, kernel, 2)))

        def of_first(x, kernel):
            return sum(jnp.sum(jnp.sin(g)) for g in jax.grad(scalar, (0, 1))(x, kernel))

        def of_second(x, kernel):
            return sum(jnp.sum(jnp.sin(g)) for g in jax.grad(of_first, (0, 1))(x, kernel))

        return jax.jit(jax.grad(of_second, (0, 1)))(x, kernel)

    with jax.enable_x64(True):
        x, kernel = arrays(3, (1, 3, 4, 2), (3, 3, 2, 2))
        assert_close(third(convolve, x, kernel), third(reference, x, kernel))


@pytest.mark.parametrize("size", [1, 3])
def test_bfloat16(size):
    # Small integers: every sum is exact in bfloat16, so the results must be equal, not just close.
    rng = np.random.default_rng(4)
    x, kernel = (jnp.asarray(rng.integers(-1, 2, s), jnp.bfloat16) for s in ((2, 4, 4, 2), (size, size, 2, 3)))
    ours, theirs = (jax.vjp(lambda x, k, c=c: c(x, k, 2), x, kernel) for c in (convolve, reference))
    y_bar = jnp.ones_like(theirs[0])
    assert_close((ours[0], ours[1](y_bar)), (theirs[0], theirs[1](y_bar)), tolerance=0)


def operations(platform, stride):
    """Counts of convolutions, in canonical layout and dilated, of matrix products and of kernels of our own."""
    y_bar = jnp.ones((2, out(8, stride), out(8, stride), 5))

    def gradient(x, kernel):
        return jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)[1](y_bar)

    traced = jax.jit(gradient).trace(jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    canonical = [line for line in lines if re.search(r"\[b, 0, 1, f\]x\[0, 1, i, o\]->\[b, 0, 1, f\]", line)]
    dilated = [line for line in lines if re.search(r"(lhs|rhs)_dilat\w* = \[2, 2\]", line)]
    return {
        "convolutions": len(lines),
        "canonical": len(canonical),
        "dilated": len(dilated),
        "dots": text.count("stablehlo.dot_general"),
        "own": text.count("@mnemonics_"),
    }


@pytest.mark.parametrize("stride", [1, 2])
def test_cpu_without_own_kernels_lowers_to_canonical_convolutions_and_products(stride, monkeypatch):
    monkeypatch.setattr(kernels, "supports", lambda x: False)
    found = operations("cpu", stride)
    assert found["own"] == 0
    assert found["dots"] == stride
    assert found["convolutions"] == found["canonical"] >= 1
    assert found["dilated"] == 0


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("stride", [1, 2])
def test_accelerators_lower_to_the_vendor_gradients(platform, stride):
    found = operations(platform, stride)
    assert found["dots"] == found["own"] == 0
    assert found["convolutions"] == 2
    assert found["dilated"] == (2 if stride == 2 else 0)


def test_rejects_even_kernels_and_other_strides():
    x = jnp.ones((1, 4, 4, 1))
    with pytest.raises(ValueError, match="kernel size 2"):
        convolve(x, jnp.ones((2, 2, 1, 1)))
    with pytest.raises(ValueError, match="stride 3"):
        convolve(x, jnp.ones((3, 3, 1, 1)), 3)
