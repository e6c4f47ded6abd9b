"""Losses that several methods share. Each gives one value per sample and ignores the logits of unseen classes."""

from jaxtyping import Bool, Float, Int

from mnemonics_jax.nets.outputs import mask_logits
from mnemonics_jax.runtime.lazy import Array, jax, jnp, optax


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], seen: Bool[Array, " classes"]
) -> Float[Array, " batch"]:
    """Return −log softmax(z)_y over the seen classes, per sample."""
    return optax.softmax_cross_entropy_with_integer_labels(mask_logits(logits, seen), labels)


def distillation(
    logits: Float[Array, "batch classes"],
    teacher: Float[Array, "batch classes"],
    old: Bool[Array, " classes"],
    temperature: float,
) -> Float[Array, " batch"]:
    """Return KL(softmax(t/T) ‖ softmax(z/T)) over the old classes, per sample (Hinton et al., 2015).

    It is zero if there are no old classes. The teacher's logits t are constants; z are `logits`, T is `temperature`.
    """
    target = jax.nn.log_softmax(mask_logits(jax.lax.stop_gradient(teacher) / temperature, old))
    student = jax.nn.log_softmax(mask_logits(logits / temperature, old))
    # Sum over the old classes alone: a masked class has a huge log-probability, and 0 · huge must stay 0.
    divergence = jnp.where(old, jnp.exp(target) * (target - student), 0).sum(axis=-1)
    return jnp.where(old.any(), divergence, 0)


def binary_cross_entropy(
    logits: Float[Array, "batch classes"],
    teacher: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    old: Bool[Array, " classes"],
    new: Bool[Array, " classes"],
) -> Float[Array, " batch"]:
    """Return iCaRL's sigmoid losses, per sample (Rebuffi et al., eq. 1).

    They are Σ_new BCE(z, 1[c = y]) + Σ_old BCE(z, σ(t)). The teacher's logits t are constants.
    """
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    target = jnp.where(old, jax.nn.sigmoid(jax.lax.stop_gradient(teacher)), one_hot)
    return jnp.where(old | new, optax.sigmoid_binary_cross_entropy(logits, target), 0).sum(axis=-1)
