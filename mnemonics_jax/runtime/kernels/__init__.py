"""CPU kernels in C++ for float32: convolution, batch normalisation, their gradients, and herding.

XLA's CPU convolutions reach a third to a half of the processor's speed, and they take most of a training step. The
kernels (C++, in this folder) are compiled for this processor at their first use; see `library`. Where `supports` is
false, the caller uses XLA's operations.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from mnemonics_jax.runtime.kernels import library


def supports(x: Array) -> bool:
    """Return whether the kernels work for an array like `x`. The first call for a float32 array may compile them."""
    # XLA cannot split a custom kernel over devices: every device would compute the whole batch.
    return x.dtype == jnp.float32 and jax.default_backend() == "cpu" and jax.device_count() == 1 and library.register()


def identity() -> str:
    """Return what computes float32 convolutions here: "xla", or "own" and the hash of all that decides their bits."""
    return f"own {library.name()}" if supports(jnp.zeros(1)) else "xla"


def correlate(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "a b c o"],
    rows: tuple[int, int],
    columns: tuple[int, int],
    stride: int,
) -> Float[Array, "n h2 w2 o"]:
    """Return y[n,i,j,o] = Σ_{a,b,c} x[n, s·i+a, s·j+b, c] · kernel[a,b,c,o], a convolution with stride s; float32.

    `rows` and `columns` are the zeros (before, after) that pad x. Under `vmap` a single call computes all lanes, each
    with its own kernel; every lane gets the same bits as on its own.
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
    """Return k̄[a,b,c,o] = Σ_{n,i,j} x[n, s·i+a−p, s·j+b−p, c] · ȳ[n,i,j,o], with x zero outside; float32.

    `size` is k, `pad` is p and `stride` is s. The order of the sum depends neither on the number of threads nor on the
    other lanes of a `vmap`.
    """
    kernel = jax.ShapeDtypeStruct((size, size, x.shape[3], y_bar.shape[3]), jnp.float32)
    call = jax.ffi.ffi_call("mnemonics_kernel_gradient", kernel, vmap_method="broadcast_all")
    return call(x, y_bar, stride=np.int64(stride), top=np.int64(pad), left=np.int64(pad))


def normalise(
    x: Float[Array, "*pixel c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    residual: Float[Array, "*pixel c"] | None,
    *,
    relu: bool,
    epsilon: float,
) -> tuple[Float[Array, "*pixel c"], Float[Array, " c"], Float[Array, " c"]]:
    """Return y = act(scale · (x − μ) / √(σ² + ε) + bias + residual), and μ and σ² of each channel; float32.

    act is ReLU if `relu`, otherwise the identity. The bits depend neither on the number of threads nor on the other
    lanes of a `vmap`.
    """
    results = jax.ShapeDtypeStruct(x.shape, x.dtype), *[jax.ShapeDtypeStruct(scale.shape, x.dtype)] * 2
    call = jax.ffi.ffi_call("mnemonics_normalise", results, vmap_method="broadcast_all")
    residuals = [] if residual is None else [residual]
    return tuple(call(x, scale, bias, *residuals, relu=relu, epsilon=np.float32(epsilon)))


def normalise_gradient(
    x: Float[Array, "*pixel c"],
    y_bar: Float[Array, "*pixel c"],
    scale: Float[Array, " c"],
    known: tuple[Float[Array, " c"], Float[Array, " c"], Float[Array, " c"], Float[Array, "*pixel c"]],
    *,
    relu: bool,
    summed: bool,
    epsilon: float,
) -> tuple[Array, Array, Array, Array | None]:
    """Return the cotangents of x, scale and bias of `normalise`, and of the residual if `summed`, else None; float32.

    `known` is the bias, μ, σ² and y. The bits are as independent of threads and lanes as those of `normalise`.
    """
    *channels, y = known
    like, channel = jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(scale.shape, x.dtype)
    results = (like, channel, channel) + ((like,) if summed else ())
    call = jax.ffi.ffi_call("mnemonics_normalise_gradient", results, vmap_method="broadcast_all")
    sums = [y] if summed else []
    bars = call(x, y_bar, scale, *channels, *sums, relu=relu, epsilon=np.float32(epsilon))
    return (*bars, None)[:4]


def herd(
    features: Float[Array, "classes sample feature"], valid: Bool[Array, "classes sample"], amount: int
) -> Int32[Array, "classes {amount}"]:
    """Return for each class the herded rows p_k = argmax_x φ(x)·(k μ − Σ_{j<k} φ(p_j)), k = 1 .. `amount`; float32.

    φ are unit features and μ is their mean, over the valid rows of a class. Among equal rows the first is taken.
    """
    picks = jax.ShapeDtypeStruct((len(features), amount), jnp.int32)
    return jax.ffi.ffi_call("mnemonics_herd", picks, vmap_method="sequential")(features, valid)
