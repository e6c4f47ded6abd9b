"""Weight transfer: what remains trainable in a convolution with a frozen kernel (Sun et al., CVPR 2019; "mtl").

It has a scale of each filter, as the authors' code does, and no shift of its own. Their convolutions have no bias, so
none there either: `BatchNorm` follows every convolution, and in training, with the batch's own statistics, it subtracts
any constant that was added to a channel. A shift in front of it would change nothing and get no gradient. The shift is
the bias of `BatchNorm`, which acts behind the normalisation and is trained in every phase.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mnemonics_jax.nets.layers import FILTER_SCALE


def mask_transfer_updates(updates: dict, frozen: Bool[Array, ""]) -> dict:
    """Return the parameter updates with zeros where weight transfer allows none.

    If `frozen` (phases ≥ 1), the convolution kernels stay as they are; otherwise the scales do. All other
    parameters are trained in every phase. A network built without weight transfer has no scales; its updates are
    returned unchanged. `updates` may be any part of the nested parameters, or the same with paths as keys
    (`flax.traverse_util.flatten_dict`).
    """
    paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates)]
    convolutions = {path[:-1] for path in paths if path[-1] == FILTER_SCALE}

    def mask_updates(path: tuple, update: Float[Array, "..."]) -> Float[Array, "..."]:
        names = _names(path)
        if names[:-1] not in convolutions:
            return update
        keep = frozen if names[-1] == FILTER_SCALE else ~frozen
        return jnp.where(keep, update, 0)

    return jax.tree_util.tree_map_with_path(mask_updates, updates)


def _names(path: tuple) -> tuple[str, ...]:
    """Return a pytree path as a tuple of names. A key that is a tuple of names is split into them."""
    names: list[str] = []
    for entry in path:
        names += entry.key if isinstance(entry.key, tuple) else [entry.key]
    return tuple(names)
