"""Kernels of our own for CPU: convolution, its kernel gradient, and herding, for float32.

XLA's CPU convolutions reach a third to a half of what the processor can do, and they are most of a training step. The
kernels (C++, beside this file) are compiled for this processor when they are first needed; see `library`. Where
`supports` is false, the caller takes what XLA offers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from mnemonics_jax.native import library


def supports(x: Array) -> bool:
    """Whether the kernels are at hand for an array like `x`. The first call for a float32 array may compile them."""
    # XLA cannot split a foreign kernel over devices: it would run whole on each.
    return x.dtype == jnp.float32 and jax.default_backend() == "cpu" and jax.device_count() == 1 and library.register()


def correlate(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "a b c o"],
    rows: tuple[int, int],
    columns: tuple[int, int],
    stride: int,
) -> Float[Array, "n h2 w2 o"]:
    """y[n,i,j,o] = Σ_{a,b,c} x[n, s·i+a, s·j+b, c] · kernel[a,b,c,o], x padded by (before, after) zeros; float32.

    Under `vmap` one call does all, each with its own kernel, and with the bits of each alone.
    """
    height, width = (
        (size + sum(padding) - taps) // stride + 1
        for size, padding, taps in zip(x.shape[1:3], (rows, columns), kernel.shape[:2], strict=True)
    )
    y = jax.ShapeDtypeStruct((x.shape[0], height, width, kernel.shape[3]), jnp.float32)
    call = jax.ffi.ffi_call("mnemonics_correlate", y, vmap_method="broadcast_all")
    return call(x, kernel, stride=np.int64(stride), top=np.int64(rows[0]), left=np.int64(columns[0]))


def kernel_gradient(
    x: Float[Array, "n h w c"], y_bar: Float[Array, "n h2 w2 o"], size: int, pad: int, stride: int
) -> Float[Array, "k k c o"]:
    """k̄[a,b,c,o] = Σ_{n,i,j} x[n, s·i+a−p, s·j+b−p, c] · ȳ[n,i,j,o], zeros outside; float32.

    The order of the sum does not depend on the number of threads, nor on what is done beside it under `vmap`.
    """
    kernel = jax.ShapeDtypeStruct((size, size, x.shape[3], y_bar.shape[3]), jnp.float32)
    call = jax.ffi.ffi_call("mnemonics_kernel_gradient", kernel, vmap_method="broadcast_all")
    return call(x, y_bar, stride=np.int64(stride), top=np.int64(pad), left=np.int64(pad))


def herd(
    features: Float[Array, "classes sample feature"], valid: Bool[Array, "classes sample"], amount: int
) -> Int32[Array, "classes {amount}"]:
    """For each class the greedy picks p_k = argmax_x φ(x)·(k μ − Σ_{j<k} φ(p_j)) among its valid rows; float32.

    φ are unit features and μ their mean; of equal rows the first is picked.
    """
    picks = jax.ShapeDtypeStruct((len(features), amount), jnp.int32)
    return jax.ffi.ffi_call("mnemonics_herd", picks, vmap_method="sequential")(features, valid)
