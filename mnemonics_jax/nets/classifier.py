"""A classifier (backbone and head) as pure functions of plain pytrees."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from mnemonics_jax.nets.outputs import Outputs, normalize
from mnemonics_jax.runtime import errors

SCOPES = ("head", "last_stage", "all")
"""What an inner loop can train: the head; the head and the backbone's last stage; everything."""


_MEANS_SCALE = 20.0
_RIDGE_SCALE = 10.0


class Variables(NamedTuple):
    """Trained parameters {"backbone", "head"} and running batch statistics {"backbone"}, as plain nested dicts."""

    params: dict
    batch_stats: dict


class Classifier(nn.Module):
    """A backbone (images to features) and a head (features to logits and scores).

    Like every Flax module it is compared by value and hashable, so it can be a static argument of a jitted function.

    It computes in the dtype of the images. With `dtype`, the backbone computes in that dtype instead. Parameters, batch
    statistics, features, logits, losses and gradients then still have at least float32.
    """

    backbone: nn.Module
    head: nn.Module
    dtype: str | None = None

    def __call__(self, x: Float[Array, "batch height width channel"], train: bool) -> Outputs:
        """Return the outputs, computed with batch statistics if `train`, otherwise with running statistics."""
        if self.dtype is None:
            features = self.backbone(x, train)
        else:
            features = self.backbone(x.astype(self.dtype), train)
            features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        logits, scores = self.head(features)
        return Outputs(logits, scores, features)


def init(net: Classifier, key: PRNGKeyArray | UInt32[Array, " 2"], image_shape: tuple[int, int, int]) -> Variables:
    """Return initial variables for images of `image_shape` (height, width, channels)."""
    variables = net.init(key, jnp.zeros((1, *image_shape)), train=False)
    return Variables(variables["params"], variables.get("batch_stats", {}))


def apply(net: Classifier, variables: Variables, x: Float[Array, "batch height width channel"]) -> Outputs:
    """Return the outputs in inference: with running statistics, and nothing is updated."""
    return net.apply(variables._asdict(), x, train=False)


def apply_train(
    net: Classifier, variables: Variables, x: Float[Array, "batch height width channel"]
) -> tuple[Outputs, dict]:
    """Return the outputs in training, with the batch's own statistics, and the updated running statistics."""
    outputs, updated = net.apply(variables._asdict(), x, train=True, mutable=["batch_stats"])
    return outputs, updated.get("batch_stats", {})


def apply_head(net: Classifier, params: dict, features: Float[Array, "batch features"]) -> Outputs:
    """Return the outputs of the head for features that are computed already."""
    logits, scores = net.head.apply({"params": params["head"]}, features)
    return Outputs(logits, scores, features)


def reset_head(net: Classifier, key: PRNGKeyArray | UInt32[Array, " 2"], params: dict) -> dict:
    """Return `params` with a freshly initialised head."""
    width = params["head"]["kernel"].shape[0]
    return params | {"head": net.head.init(key, jnp.zeros((1, width)))["params"]}


def imprint_means(
    params: dict,
    features: Float[Array, "sample features"],
    labels: Int[Array | np.ndarray, " sample"],
    weights: Float[Array | np.ndarray, " sample"],
) -> dict:
    """Return `params` with a head that ranks classes by the cosine to their mean unit feature.

    For a cosine head, the logits are 20 times that cosine. A linear head also multiplies by the feature's length,
    divided by the root mean square length of `features`; this does not change the ranking. The result is differentiable
    with respect to `features`.

    Args:
        params: a classifier's parameters.
        features: features of the samples, not normalised.
        labels: class positions of the samples.
        weights: 1 for samples that count, 0 for padding.
    """
    unit = normalize(features, axis=-1) * weights[:, None]
    means = jnp.zeros(params["head"]["kernel"].shape[::-1], features.dtype).at[labels].add(unit)
    return _with_kernel(params, normalize(means, axis=-1).T, _MEANS_SCALE, features, weights)


def imprint_ridge(
    params: dict,
    features: Float[Array, "sample features"],
    labels: Int[Array | np.ndarray, " sample"],
    weights: Float[Array | np.ndarray, " sample"],
    strength: float,
) -> dict:
    """Return `params` with a head fitted by ridge regression: W = Fᵀ (F Fᵀ + λ I)⁻¹ Y.

    The rows of F are the unit features of the samples with weight 1, the rows of Y their classes as one-hot vectors. As
    λ grows, the columns of W turn towards the class means. A linear head's logits are 10 times the regression's,
    multiplied by the feature's length as in `imprint_means`. A cosine head uses only the directions of the columns. The
    result is differentiable with respect to `features`.

    Args:
        params: a classifier's parameters.
        features: features of the samples, not normalised.
        labels: class positions of the samples.
        weights: 1 for samples that count, 0 for padding.
        strength: λ, greater than 0.
    """
    unit = normalize(features, axis=-1) * weights[:, None]
    targets = jax.nn.one_hot(labels, params["head"]["kernel"].shape[1], dtype=features.dtype) * weights[:, None]
    gram = unit @ unit.T + strength * jnp.eye(len(unit), dtype=features.dtype)
    kernel = unit.T @ jax.scipy.linalg.solve(gram, targets, assume_a="pos")
    return _with_kernel(params, kernel, _RIDGE_SCALE, features, weights)


def _with_kernel(
    params: dict,
    kernel: Float[Array, "features classes"],
    scale: float,
    features: Float[Array, "sample features"],
    weights: Float[Array | np.ndarray, " sample"],
) -> dict:
    head = params["head"]
    if "sigma" in head:
        return params | {"head": {"kernel": kernel, "sigma": jnp.full_like(head["sigma"], scale)}}
    squares = (jnp.square(features).sum(-1) * weights).sum() / weights.sum()
    # The features of a collapsed network are zero; the bound keeps the head finite in that case.
    scale *= jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
    return params | {"head": {"kernel": scale * kernel, "bias": jnp.zeros_like(head["bias"])}}


def scope_of(params: dict, scope: str) -> dict:
    """Return a tree like `params` whose leaves are Python bools: whether an inner loop of this scope trains the leaf.

    Args:
        params: a classifier's parameters. The stages of its backbone are named stage_0, stage_1, ...
        scope: one of `SCOPES`.

    Raises:
        UserError: if `scope` is not one of `SCOPES`.
    """
    if scope not in SCOPES:
        raise errors.unknown_name("scope", scope, SCOPES)
    stages = [name for name in params["backbone"] if name.startswith("stage_")]
    last = max(stages, key=lambda name: int(name.removeprefix("stage_")))

    def trained(path: tuple, _: object) -> bool:
        part, name = path[0].key, path[1].key
        return scope == "all" or part == "head" or (scope == "last_stage" and name == last)

    return jax.tree_util.tree_map_with_path(trained, params)
