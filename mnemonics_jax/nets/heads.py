"""Classifier heads: linear, and cosine as in LUCIR (Hou et al., CVPR 2019); updates of unseen classes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mnemonics_jax.nets.outputs import normalize


def _uniform(key: Array, shape: tuple[int, int]) -> Array:
    """Draw a kernel [features, classes], uniform in ±1/√features."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class LinearHead(nn.Module):
    """A linear head: logits = f·W + b.

    The kernel W [features, classes] starts uniform in ±1/√features, the bias b [classes] at zero.
    """

    num_classes: int

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch features"]
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"]]:
        """Return (logits, scores); for this head both are the same."""
        kernel = self.param("kernel", _uniform, (features.shape[-1], self.num_classes))
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        logits = features @ kernel.astype(features.dtype) + bias.astype(features.dtype)
        return logits, logits


class CosineHead(nn.Module):
    """A cosine head: logits = σ·cos(f, w_c), where w_c are the columns of the kernel [features, classes].

    The kernel starts uniform in ±1/√features, σ at 1.
    """

    num_classes: int

    @nn.compact
    def __call__(
        self, features: Float[Array, "batch features"]
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"]]:
        """Return (logits, scores): scores are the cosines in [−1, 1], logits are σ·scores."""
        kernel = self.param("kernel", _uniform, (features.shape[-1], self.num_classes))
        sigma = self.param("sigma", nn.initializers.ones, ())
        scores = normalize(features, axis=-1) @ normalize(kernel.astype(features.dtype), axis=0)
        return sigma.astype(features.dtype) * scores, scores


def mask_head_updates(updates: dict, seen: Bool[Array, " classes"]) -> dict:
    """Return the parameter updates with zeros for the head columns and biases of classes that are not seen yet.

    Their gradient is zero, but weight decay would shrink them in every phase before their own. So these columns keep
    their initial draw, and each class starts its phase with a fresh column.
    """
    # A cosine head's σ, a scalar, belongs to no class.
    head = {name: jnp.where(seen, update, 0) if update.ndim else update for name, update in updates["head"].items()}
    return {**updates, "head": head}
