"""A backbone with a head as pure functions of plain pytrees."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from mnemonics_jax import errors
from mnemonics_jax.nets.heads import normalize

SCOPES = ("head", "last_stage", "all")
"""What an inner loop can train: the head; the head and the last stage of the backbone; everything."""


_MEANS_SCALE = 20.0
_RIDGE_SCALE = 10.0


class Outputs(NamedTuple):
    """What a classifier computes: `logits` for losses, `scores` as the head ranks classes (cosines, if it has them)."""

    logits: Float[Array, "batch classes"]
    scores: Float[Array, "batch classes"]
    features: Float[Array, "batch features"]


class Variables(NamedTuple):
    """Trained parameters {"backbone", "head"} and running batch statistics {"backbone"}, as plain nested dicts."""

    params: dict
    batch_stats: dict


class Classifier(nn.Module):
    """A backbone (images to features) and a head (features to logits and scores).

    Equal by value and hashable, like every Flax module, so it can be a static argument of a jitted function.

    It computes in the images' type. With `dtype` the backbone computes in that one instead; parameters, batch
    statistics, features and all after them, losses and gradients included, are then never narrower than float32.
    """

    backbone: nn.Module
    head: nn.Module
    dtype: str | None = None

    def __call__(self, x: Float[Array, "batch height width channel"], train: bool) -> Outputs:
        """Outputs with batch statistics if `train`, else with running ones."""
        if self.dtype is None:
            features = self.backbone(x, train)
        else:
            features = self.backbone(x.astype(self.dtype), train)
            features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        logits, scores = self.head(features)
        return Outputs(logits, scores, features)


def init(net: Classifier, key: PRNGKeyArray | UInt32[Array, "2"], image_shape: tuple[int, int, int]) -> Variables:
    """Initial variables for images of `image_shape` (height, width, channels)."""
    variables = net.init(key, jnp.zeros((1, *image_shape)), train=False)
    return Variables(variables["params"], variables.get("batch_stats", {}))


def apply(net: Classifier, variables: Variables, x: Float[Array, "batch height width channel"]) -> Outputs:
    """Outputs in inference: running statistics, nothing updated."""
    return net.apply(variables._asdict(), x, train=False)


def apply_train(
    net: Classifier, variables: Variables, x: Float[Array, "batch height width channel"]
) -> tuple[Outputs, dict]:
    """Outputs with the batch's own statistics, and the running statistics updated by them."""
    outputs, updated = net.apply(variables._asdict(), x, train=True, mutable=["batch_stats"])
    return outputs, updated.get("batch_stats", {})


def apply_head(net: Classifier, params: dict, features: Float[Array, "batch features"]) -> Outputs:
    """Outputs of the head alone, for features already computed."""
    logits, scores = net.head.apply({"params": params["head"]}, features)
    return Outputs(logits, scores, features)


def reset_head(net: Classifier, key: PRNGKeyArray | UInt32[Array, "2"], params: dict) -> dict:
    """`params` with a freshly initialised head."""
    width = params["head"]["kernel"].shape[0]
    return params | {"head": net.head.init(key, jnp.zeros((1, width)))["params"]}


def imprint_means(
    params: dict,
    features: Float[Array, "sample features"],
    labels: Int[Array | np.ndarray, "sample"],
    weights: Float[Array | np.ndarray, "sample"],
) -> dict:
    """`params` with a head that ranks classes by the cosine of a feature and the class's mean unit feature.

    The logits are that cosine times 20, exactly so for a cosine head; a linear head multiplies it with the feature's
    length over the root mean square length of `features` besides, which changes no order. A function of `features`.
    """
    unit = normalize(features, axis=-1) * weights[:, None]
    means = jnp.zeros(params["head"]["kernel"].shape[::-1], features.dtype).at[labels].add(unit)
    return _with_kernel(params, normalize(means, axis=-1).T, _MEANS_SCALE, features, weights)


def imprint_ridge(
    params: dict,
    features: Float[Array, "sample features"],
    labels: Int[Array | np.ndarray, "sample"],
    weights: Float[Array | np.ndarray, "sample"],
    strength: float,
) -> dict:
    """`params` with a head fitted by ridge regression: W = Fᵀ (F Fᵀ + λ I)⁻¹ Y.

    The rows of F are the unit features of the samples of weight one, those of Y their classes as one-hot vectors, and
    λ is `strength`; as it grows, the columns of W turn towards the class means. A linear head's logits are those of
    the regression times 10 and the feature's length as in `imprint_means`; a cosine head takes the directions of the
    columns alone. A function of `features`.
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
    weights: Float[Array | np.ndarray, "sample"],
) -> dict:
    head = params["head"]
    if "sigma" in head:
        return params | {"head": {"kernel": kernel, "sigma": jnp.full_like(head["sigma"], scale)}}
    squares = (jnp.square(features).sum(-1) * weights).sum() / weights.sum()
    # A network that has collapsed has features of zero, which make a poor head, but a finite one.
    scale *= jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
    return params | {"head": {"kernel": scale * kernel, "bias": jnp.zeros_like(head["bias"])}}


def scope_of(params: dict, scope: str) -> dict:
    """A tree like `params` with Python bools for leaves: whether a loop of that scope trains the leaf.

    Args:
        params: a classifier's parameters; its backbone's stages are named stage_0, stage_1, ...
        scope: one of `SCOPES`.

    Raises:
        UserError: for any other scope.
    """
    if scope not in SCOPES:
        raise errors.unknown_name("scope", scope, SCOPES)
    stages = [name for name in params["backbone"] if name.startswith("stage_")]
    last = max(stages, key=lambda name: int(name.removeprefix("stage_")))

    def trained(path: tuple, _: object) -> bool:
        part, name = path[0].key, path[1].key
        return scope == "all" or part == "head" or (scope == "last_stage" and name == last)

    return jax.tree_util.tree_map_with_path(trained, params)
