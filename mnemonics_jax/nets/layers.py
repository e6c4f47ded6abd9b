"""The two layers of every backbone: convolution without bias, and batch normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mnemonics_jax.nets.convolution import convolve

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
    def __call__(self, x: Float[Array, "*batch c"], train: bool) -> Float[Array, "*batch c"]:
        """Return `x` normalised, scaled and shifted, in its dtype."""
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if not train:
            return ((x - mean.value) * (scale * lax.rsqrt(var.value + _EPSILON)) + bias).astype(x.dtype)
        y, batch_mean, batch_var = normalise(x, scale, bias)
        if not self.is_initializing():
            mean.value = _KEPT * mean.value + (1 - _KEPT) * batch_mean
            var.value = _KEPT * var.value + (1 - _KEPT) * batch_var
        return y


@jax.custom_vjp
def normalise(
    x: Float[Array, "*batch c"], scale: Float[Array, " c"], bias: Float[Array, " c"]
) -> tuple[Float[Array, "*batch c"], Float[Array, " c"], Float[Array, " c"]]:
    """Return y = scale · x̂ + bias with x̂ = (x − μ) / √(σ² + ε), and the statistics μ and σ².

    The statistics are taken over all axes but the last, in at least float32. They are for the running averages; no
    gradient flows through them.

    The gradient of y is written by hand. It needs two passes over x and ȳ (the sums Σȳ and Σȳx̂, then x̄), about half
    the time of automatic differentiation. It can itself be differentiated.
    """
    return _normalise(x, scale, bias)[0]


def _normalise(x: Array, scale: Array, bias: Array) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    mean = wide.mean(axes)
    # Compute both sums in one pass over x. For a constant channel, rounding could make the variance negative.
    var = jnp.maximum((wide * wide).mean(axes) - mean * mean, 0)
    y = (wide - mean) * (scale * lax.rsqrt(var + _EPSILON)) + bias
    return (y.astype(x.dtype), mean, var), (x, scale, mean, var)


def _normalise_transposed(saved: tuple[Array, ...], cotangents: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    x, scale, mean, var = saved
    y_bar = cotangents[0].astype(mean.dtype)
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    inverse = lax.rsqrt(var + _EPSILON)
    centred = x - mean
    bias_bar = y_bar.sum(axes)
    scale_bar = (y_bar * centred).sum(axes) * inverse
    x_bar = (scale * inverse) * (y_bar - bias_bar / count - centred * (inverse * scale_bar / count))
    return x_bar.astype(x.dtype), scale_bar.astype(scale.dtype), bias_bar.astype(scale.dtype)


normalise.defvjp(_normalise, _normalise_transposed)
