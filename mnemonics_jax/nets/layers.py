"""The two layers every backbone is made of: convolution without bias, and batch normalisation."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mnemonics_jax.nets.convolution import convolve

FILTER_SCALE, FILTER_SHIFT = "filter_scale", "filter_shift"

HE_NORMAL_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Normal with variance 2 / (k²·features) (He et al. 2015), the initialisation of CIFAR ResNets."""


class Conv(nn.Module):
    """`convolve` with a learned float32 kernel [k, k, in, features], without bias; computes in its input's dtype.

    With `transfer`, also a learned scale [in, features] of each filter, one at first, and a shift [features] of each
    output channel, zero at first: what weight transfer learns in place of the kernel (`nets.transfer`).
    """

    features: int
    kernel_size: int
    stride: int = 1
    transfer: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 o"]:
        """Feature maps of ⌈h/stride⌉ × ⌈w/stride⌉."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", HE_NORMAL_FAN_OUT, shape)
        if not self.transfer:
            return convolve(x, kernel.astype(x.dtype), self.stride)
        scale = self.param(FILTER_SCALE, nn.initializers.ones, shape[2:])
        shift = self.param(FILTER_SHIFT, nn.initializers.zeros, shape[3:])
        return convolve(x, (kernel * scale).astype(x.dtype), self.stride) + shift.astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last: batch statistics in training, running ones in inference.

    Running statistics decay by 0.9 for each training batch; ε = 1e-5. The variance is the biased one throughout.
    Parameters and statistics are at least float32.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"], train: bool) -> Float[Array, "*batch c"]:
        """Normalised, scaled and shifted `x`, in its dtype."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=x.dtype, param_dtype=wide, name="norm")
        return norm(x)
