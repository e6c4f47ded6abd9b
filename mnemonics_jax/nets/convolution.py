"""Two-dimensional convolution whose derivatives of every order are fast on CPU, also inside `jax.lax.scan`.

Convolution y = x ∗ k is bilinear, and so are the two maps its reverse mode needs. With a cotangent ȳ of y,

    x̄ = input_gradient(ȳ, k),    k̄ = kernel_gradient(x, ȳ).

The three maps are the partial transposes of one trilinear form ⟨ȳ, x ∗ k⟩, so the derivatives of each are the other
two. The custom derivative rules below therefore call only each other, and a gradient of a gradient consists of the
same three programs. Only reverse mode is defined (`jax.grad`, `jax.vjp`, at any depth), not `jax.jvp`.

XLA's CPU backend has a fast program only for a plain forward convolution. Automatic differentiation of
`jax.lax.conv_general_dilated` produces dilations, or the batch as contracted channels; these are many times slower,
above all inside a loop. The CPU branches therefore consist of plain forward convolutions and one kind of kernel
gradient. They use the compiled programs of `runtime.kernels` if available, otherwise XLA's convolutions and matrix
products. Every other platform uses its vendor's convolution and that convolution's gradients. JAX chooses the branch
when it lowers the program.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mnemonics_jax.runtime import kernels

# With this block size, intermediate copies of one block of images stay in the cache of a core.
_BLOCK_BYTES = 1 << 20


class _Geometry(NamedTuple):
    """The static part of a convolution's arguments, which its arrays alone do not determine. Hashable."""

    height: int
    width: int
    size: int
    stride: int

    @property
    def pad(self) -> int:
        return self.size // 2

    def taps(self, phase: int) -> range:
        """Return the kernel positions that touch input positions ≡ phase modulo the stride.

        Output j reads input stride·j + tap − pad. Input stride·i + phase therefore meets output j for the taps with tap
        ≡ phase + pad, and j = i + (phase + pad − tap) / stride.
        """
        return range((phase + self.pad) % self.stride, self.size, self.stride)


def convolve(x: Float[Array, "n h w c"], kernel: Float[Array, "k k c o"], stride: int = 1) -> Float[Array, "n h2 w2 o"]:
    """Return the cross-correlation of `x` with `kernel`, with zeros outside of the image.

    y[n,i,j,o] = Σ_{a,b,c} x[n, s·i+a−p, s·j+b−p, c] · kernel[a,b,c,o] with p = k // 2.

    Args:
        x: images or feature maps, any floating dtype.
        kernel: filters of the same dtype; k is odd.
        stride: s, 1 or 2.

    Returns:
        Feature maps of ⌈h/s⌉ × ⌈w/s⌉ in the dtype of `x`.

    Raises:
        ValueError: if k is even or the stride is neither 1 nor 2.
    """
    size = kernel.shape[0]
    if size % 2 == 0 or stride not in (1, 2):
        raise ValueError(f"convolve takes odd kernels with stride 1 or 2, got kernel size {size} and stride {stride}")
    if size == 1:
        return jnp.einsum("nhwc,co->nhwo", x[:, ::stride, ::stride], kernel[0, 0])
    return _forward(_Geometry(x.shape[1], x.shape[2], size, stride), x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _forward(geometry: _Geometry, x: Float[Array, "n h w c"], kernel: Float[Array, "k k c o"]) -> Array:
    return lax.platform_dependent(
        x, kernel, cpu=partial(_cpu_forward, geometry), default=partial(_vendor_forward, geometry)
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(geometry: _Geometry, y_bar: Float[Array, "n h2 w2 o"], kernel: Float[Array, "k k c o"]) -> Array:
    return lax.platform_dependent(
        y_bar,
        kernel,
        cpu=partial(_cpu_input_gradient, geometry),
        default=partial(_vendor_input_gradient, geometry),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(geometry: _Geometry, x: Float[Array, "n h w c"], y_bar: Float[Array, "n h2 w2 o"]) -> Array:
    return lax.platform_dependent(
        x,
        y_bar,
        cpu=partial(_cpu_kernel_gradient, geometry),
        default=partial(_vendor_kernel_gradient, geometry),
    )


def _forward_transposed(geometry: _Geometry, saved: tuple[Array, Array], y_bar: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return _input_gradient(geometry, y_bar, kernel), _kernel_gradient(geometry, x, y_bar)


def _input_gradient_transposed(geometry: _Geometry, saved: tuple[Array, Array], x: Array) -> tuple[Array, Array]:
    y_bar, kernel = saved
    return _forward(geometry, x, kernel), _kernel_gradient(geometry, x, y_bar)


def _kernel_gradient_transposed(geometry: _Geometry, saved: tuple[Array, Array], kernel: Array) -> tuple[Array, Array]:
    x, y_bar = saved
    return _input_gradient(geometry, y_bar, kernel), _forward(geometry, x, kernel)


_forward.defvjp(lambda geometry, x, kernel: (_forward(geometry, x, kernel), (x, kernel)), _forward_transposed)
_input_gradient.defvjp(
    lambda geometry, y_bar, kernel: (_input_gradient(geometry, y_bar, kernel), (y_bar, kernel)),
    _input_gradient_transposed,
)
_kernel_gradient.defvjp(
    lambda geometry, x, y_bar: (_kernel_gradient(geometry, x, y_bar), (x, y_bar)), _kernel_gradient_transposed
)


def _vendor_forward(geometry: _Geometry, x: Array, kernel: Array) -> Array:
    padding = (geometry.pad, geometry.pad)
    return _correlate(x, kernel, padding, padding, geometry.stride)


def _vendor_input_gradient(geometry: _Geometry, y_bar: Array, kernel: Array) -> Array:
    x = jax.ShapeDtypeStruct((y_bar.shape[0], geometry.height, geometry.width, kernel.shape[2]), y_bar.dtype)
    (x_bar,) = jax.linear_transpose(lambda x: _vendor_forward(geometry, x, kernel), x)(y_bar)
    return x_bar


def _vendor_kernel_gradient(geometry: _Geometry, x: Array, y_bar: Array) -> Array:
    kernel = jax.ShapeDtypeStruct((geometry.size, geometry.size, x.shape[3], y_bar.shape[3]), x.dtype)
    (kernel_bar,) = jax.linear_transpose(lambda kernel: _vendor_forward(geometry, x, kernel), kernel)(y_bar)
    return kernel_bar


def _cpu_forward(geometry: _Geometry, x: Array, kernel: Array) -> Array:
    padding = (geometry.pad, geometry.pad)
    return _cpu_correlate(x, kernel, padding, padding, geometry.stride)


def _cpu_input_gradient(geometry: _Geometry, y_bar: Array, kernel: Array) -> Array:
    """Return x̄: one forward convolution of ȳ for each phase of the input positions, interleaved.

    This way no product with a known zero is computed.
    """
    stride = geometry.stride
    mirrored = kernel[::-1, ::-1].swapaxes(2, 3)

    def phase_of(row: int, column: int) -> Array:
        rows, columns = geometry.taps(row), geometry.taps(column)
        taps = mirrored[_mirror(rows, geometry.size)][:, _mirror(columns, geometry.size)]
        return _cpu_correlate(y_bar, taps, _phase_padding(geometry, row), _phase_padding(geometry, column), 1)

    phases = jnp.stack([jnp.stack([phase_of(r, c) for c in range(stride)], 3) for r in range(stride)], 2)
    n, rows, _, columns, _, channels = phases.shape
    return phases.reshape(n, rows * stride, columns * stride, channels)[:, : geometry.height, : geometry.width]


def _cpu_kernel_gradient(geometry: _Geometry, x: Array, y_bar: Array) -> Array:
    if kernels.supports(x):
        return kernels.kernel_gradient(x, y_bar, geometry.size, geometry.pad, geometry.stride)
    # Sum over blocks of images, so that the shifted copies of one block stay in cache.
    n = x.shape[0]
    block = _block_length(n, max(x[0].nbytes, y_bar[0].nbytes) * geometry.size)
    if block == n:
        return _shifted_products(geometry, x, y_bar).astype(x.dtype)

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _shifted_products(geometry, *pair), None

    shape = jax.eval_shape(partial(_shifted_products, geometry), x[:block], y_bar[:block])
    blocks = tuple(a.reshape(n // block, block, *a.shape[1:]) for a in (x, y_bar))
    return lax.scan(add, jnp.zeros(shape.shape, shape.dtype), blocks)[0].astype(x.dtype)


def _shifted_products(geometry: _Geometry, x: Array, y_bar: Array) -> Array:
    """Multiply column shifts of x with row shifts of ȳ: one matrix product per phase of the rows.

    The column shifts are joined along channels. If the k² shifts are split between the two sides, each array is copied
    k times instead of one array k² times. The product [k·c, pixels] · [pixels, k·o] also has a better shape than k²
    products of [c, pixels] · [pixels, o].
    """
    size, stride, pad = geometry.size, geometry.stride, geometry.pad
    _, rows, columns, o = y_bar.shape
    c = x.shape[3]
    shifted = jnp.concatenate([_shift(x, 2, tap - pad, columns, stride) for tap in range(size)], -1)
    by_tap = {}
    for phase in range(stride):
        taps = geometry.taps(phase)
        left = _shift(shifted, 1, phase, rows, stride)
        right = jnp.concatenate([_shift(y_bar, 1, (phase + pad - tap) // stride, rows, 1) for tap in taps], -1)
        product = _contract_pixels(left, right)
        by_tap |= dict(zip(taps, product.reshape(size, c, len(taps), o).transpose(2, 0, 1, 3), strict=True))
    return jnp.stack([by_tap[tap] for tap in range(size)])


def _block_length(images: int, bytes_per_image: int) -> int:
    """Return how many images form a block: the largest divisor of `images` that fits the cache.

    If that divisor is less than a quarter of what fits, return `images`: one block for all.
    """
    fitting = max(_BLOCK_BYTES // bytes_per_image, 1)
    block = next(d for d in range(min(fitting, images), 0, -1) if images % d == 0)
    return block if 4 * block >= min(fitting, images) else images


def _cpu_correlate(x: Array, kernel: Array, rows: tuple[int, int], columns: tuple[int, int], stride: int) -> Array:
    correlate = kernels.correlate if kernels.supports(x) else _correlate
    return correlate(x, kernel, rows, columns, stride)


def _correlate(x: Array, kernel: Array, rows: tuple[int, int], columns: tuple[int, int], stride: int) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), (rows, columns), dimension_numbers=layout)


def _mirror(taps: range, size: int) -> slice:
    """Return the slice of a mirrored axis that holds `taps`, in mirrored order."""
    return slice(size - 1 - taps[-1], size - taps[0], taps.step)


def _phase_padding(geometry: _Geometry, phase: int) -> tuple[int, int]:
    """Return the padding of ȳ for one phase of x̄.

    With it, the correlation of ȳ with the phase's mirrored taps gives that phase of x̄, and is as long as ȳ.
    """
    taps = geometry.taps(phase)
    before = len(taps) - 1 - (phase + geometry.pad - taps[0]) // geometry.stride
    return before, len(taps) - 1 - before


def _shift(x: Array, axis: int, start: int, length: int, stride: int) -> Array:
    """Return x[start + stride·i] along `axis` for i < length, with zeros outside of x. `start` may be negative."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (-start, start + stride * (length - 1) + 1 - x.shape[axis], 0)
    return lax.slice_in_dim(lax.pad(x, jnp.zeros((), x.dtype), padding), 0, None, stride, axis)


def _contract_pixels(left: Float[Array, "n h w p"], right: Float[Array, "n h w q"]) -> Float[Array, "p q"]:
    """Return Σ_{n,h,w} left · right, summed in at least float32: the sum is too long for 16 bits."""
    # Contract one flat axis. With three axes XLA first transposes both sides, which costs several times the product.
    return lax.dot_general(
        left.reshape(-1, left.shape[3]),
        right.reshape(-1, right.shape[3]),
        (((0,), (0,)), ((), ())),
        preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
    )
