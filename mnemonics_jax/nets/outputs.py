"""The outputs of a classifier, and functions of them."""

from typing import NamedTuple

from jaxtyping import Bool, Float

from mnemonics_jax.runtime.lazy import Array, jax, jnp

_TINY_SQUARED_NORM = 1e-12
_UNSEEN = -1e9


class Outputs(NamedTuple):
    """The outputs of a classifier: losses use `logits`, rankings of classes `scores` (of a cosine head: cosines)."""

    logits: Float[Array, "batch classes"]
    scores: Float[Array, "batch classes"]
    features: Float[Array, "batch features"]


def normalize(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*shape"]:
    """Return x / ‖x‖₂ along `axis`, in the dtype of `x`.

    A vector shorter than 1e-6 has no usable direction: it becomes zero, and so do its derivatives of every order.
    """
    squared = jnp.sum(jnp.square(x), axis, keepdims=True, dtype=jnp.promote_types(x.dtype, jnp.float32))
    directed = squared > _TINY_SQUARED_NORM
    # The inner `where` keeps rsqrt away from zero, where its infinite derivative times the outer zero would be NaN.
    scale = jnp.where(directed, jax.lax.rsqrt(jnp.where(directed, squared, 1.0)), 0.0)
    return x * scale.astype(x.dtype)


def mask_logits(
    logits: Float[Array, "*batch classes"], seen: Bool[Array, " classes"]
) -> Float[Array, "*batch classes"]:
    """Return the logits with those of unseen classes set to −1e9.

    If the dtype cannot hold −1e9, half of its lowest value is used. The value is finite, so that differences of two
    masked logits are not NaN. Unseen logits get no gradient.
    """
    floor = max(_UNSEEN, float(jnp.finfo(logits.dtype).min) / 2)
    return jnp.where(seen, logits, jnp.asarray(floor, logits.dtype))
