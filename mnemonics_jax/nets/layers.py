"""The two layers of every backbone: convolution without bias, and batch normalisation with what follows it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mnemonics_jax.nets.convolution import convolve
from mnemonics_jax.runtime import kernels

FILTER_SCALE = "filter_scale"

_EPSILON = 1e-5
_KEPT = 0.9

HE_NORMAL_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Normal with variance 2 / (k²·features) (He et al. 2015), the usual initialisation of CIFAR ResNets."""


class Conv(nn.Module):
    """`convolve` with a learned kernel [k, k, in, features], without bias.

    The kernel is float32; the layer computes in the dtype of its input. With `transfer` it also has what weight
    transfer learns instead of the kernel (`nets.transfer`): a scale [in, features] of each filter, which starts at one.
    """

    features: int
    kernel_size: int
    stride: int = 1
    transfer: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 o"]:
        """Return feature maps of ⌈h/stride⌉ × ⌈w/stride⌉."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", HE_NORMAL_FAN_OUT, shape)
        if not self.transfer:
            return convolve(x, kernel.astype(x.dtype), self.stride)
        scale = self.param(FILTER_SCALE, nn.initializers.ones, shape[2:])
        return convolve(x, (kernel * scale).astype(x.dtype), self.stride)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last: batch statistics in training, running ones in inference.

    Running statistics decay by 0.9 with each training batch, and ε = 1e-5. The variance is always the biased one.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch c"],
        train: bool,
        residual: Float[Array, "*batch c"] | None = None,
        relu: bool = False,
    ) -> Float[Array, "*batch c"]:
        """Return `x` normalised, scaled and shifted, in its dtype; then `residual` added, then ReLU, if given."""
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if not train:
            return _activate(_affine(x, scale, bias, mean.value, var.value), residual, relu)
        y, batch_mean, batch_var = normalise(x, scale, bias, residual, relu)
        if not self.is_initializing():
            mean.value = _KEPT * mean.value + (1 - _KEPT) * batch_mean
            var.value = _KEPT * var.value + (1 - _KEPT) * batch_var
        return y


def normalise(
    x: Float[Array, "*batch c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    residual: Float[Array, "*batch c"] | None = None,
    relu: bool = False,
) -> tuple[Float[Array, "*batch c"], Float[Array, " c"], Float[Array, " c"]]:
    """Return y = act(scale · x̂ + bias + residual) with x̂ = (x − μ) / √(σ² + ε), and the statistics μ and σ².

    act is ReLU if `relu`, otherwise the identity. The statistics are taken over all axes but the last, in at least
    float32. They are for the running averages; no gradient flows through them.

    The gradient of y is written by hand. It needs two passes over x and ȳ (the sums Σȳ and Σȳx̂, then x̄), about half
    the time of automatic differentiation. It can itself be differentiated, by reverse mode. On CPU, both are compiled
    programs of `runtime.kernels` if available.
    """
    return _normalise(relu, residual is not None, x, scale, bias, residual)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _normalise(
    relu: bool, summed: bool, x: Array, scale: Array, bias: Array, residual: Array | None
) -> tuple[Array, Array, Array]:
    own = partial(kernels.normalise, epsilon=_EPSILON) if kernels.supports(x) else _xla_normalise
    return lax.platform_dependent(
        x, scale, bias, residual, cpu=partial(own, relu=relu), default=partial(_xla_normalise, relu=relu)
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gradient(
    relu: bool, summed: bool, x: Array, y_bar: Array, scale: Array, known: tuple[Array, ...]
) -> tuple[Array, Array, Array, Array | None]:
    """Return the cotangents of x, scale, bias and, if `summed`, of the residual.

    `known` is the bias, μ, σ² and y: functions of the other arguments, with which derivatives do not count them.
    """
    own = partial(kernels.normalise_gradient, epsilon=_EPSILON) if kernels.supports(x) else _xla_gradient
    return lax.platform_dependent(
        x,
        y_bar,
        scale,
        known,
        cpu=partial(own, relu=relu, summed=summed),
        default=partial(_xla_gradient, relu=relu, summed=summed),
    )


def _normalise_saving(relu: bool, summed: bool, x: Array, scale: Array, bias: Array, residual: Array | None) -> tuple:
    y, mean, var = _normalise(relu, summed, x, scale, bias, residual)
    return (y, mean, var), (x, scale, (bias, mean, var, y))


def _normalise_transposed(relu: bool, summed: bool, saved: tuple, cotangents: tuple[Array, ...]) -> tuple:
    x, scale, known = saved
    return _gradient(relu, summed, x, cotangents[0], scale, known)


def _gradient_saving(relu: bool, summed: bool, x: Array, y_bar: Array, scale: Array, known: tuple[Array, ...]) -> tuple:
    return _gradient(relu, summed, x, y_bar, scale, known), (x, y_bar, scale, known)


def _gradient_transposed(relu: bool, summed: bool, saved: tuple, cotangents: tuple) -> tuple:
    x, y_bar, scale, known = saved
    bias, _, _, y = known

    def gradient(x: Array, y_bar: Array, scale: Array) -> tuple:
        return _xla_gradient(x, y_bar, scale, (bias, *_statistics(x), y), relu=relu, summed=summed)

    return *jax.vjp(gradient, x, y_bar, scale)[1](cotangents), jax.tree.map(jnp.zeros_like, known)


_normalise.defvjp(_normalise_saving, _normalise_transposed)
_gradient.defvjp(_gradient_saving, _gradient_transposed)


def _xla_normalise(
    x: Array, scale: Array, bias: Array, residual: Array | None, *, relu: bool
) -> tuple[Array, Array, Array]:
    mean, var = _statistics(x)
    return _activate(_affine(x, scale, bias, mean, var), residual, relu), mean, var


def _xla_gradient(
    x: Array, y_bar: Array, scale: Array, known: tuple[Array, ...], *, relu: bool, summed: bool
) -> tuple[Array, Array, Array, Array | None]:
    bias, mean, var, y = known
    if relu:
        y_bar = jnp.where(y > 0, y_bar, 0)
    wide = y_bar.astype(mean.dtype)
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    inverse = lax.rsqrt(var + _EPSILON)
    centred = x - mean
    bias_bar = wide.sum(axes)
    scale_bar = (wide * centred).sum(axes) * inverse
    x_bar = (scale * inverse) * (wide - bias_bar / count - centred * (inverse * scale_bar / count))
    both = scale_bar.astype(scale.dtype), bias_bar.astype(bias.dtype)
    return x_bar.astype(x.dtype), *both, y_bar if summed else None


def _statistics(x: Float[Array, "*batch c"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    mean = wide.mean(axes)
    # Compute both sums in one pass over x. For a constant channel, rounding could make the variance negative.
    return mean, jnp.maximum((wide * wide).mean(axes) - mean * mean, 0)


def _affine(x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    return ((x - mean) * (scale * lax.rsqrt(var + _EPSILON)) + bias).astype(x.dtype)


def _activate(y: Array, residual: Array | None, relu: bool) -> Array:
    y = y if residual is None else y + residual
    return nn.relu(y) if relu else y
