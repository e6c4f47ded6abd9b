"""Weight transfer: what is learned of a convolution once its kernel is frozen (Sun et al., CVPR 2019; "mtl")."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mnemonics_jax.nets.layers import FILTER_SCALE, FILTER_SHIFT


def restrict_transfer(updates: dict, frozen: Bool[Array, ""]) -> dict:
    """Parameter updates with those switched off that weight transfer does not allow.

    Where `frozen` (phases ≥ 1) the convolution kernels stay as they are; elsewhere the scales and shifts do. A network
    built without weight transfer has neither scales nor shifts and is left alone. `updates` may be any part of the
    nested parameters, or the same with paths as keys (`flax.traverse_util.flatten_dict`).
    """
    paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates)]
    convolutions = {path[:-1] for path in paths if path[-1] == FILTER_SCALE}

    def restrict(path: tuple, update: Float[Array, "..."]) -> Float[Array, "..."]:
        names = _names(path)
        if names[:-1] not in convolutions:
            return update
        keep = frozen if names[-1] in (FILTER_SCALE, FILTER_SHIFT) else ~frozen
        return jnp.where(keep, update, 0)

    return jax.tree_util.tree_map_with_path(restrict, updates)


def _names(path: tuple) -> tuple[str, ...]:
    """A pytree path as names; a key that is itself a path of names is taken apart."""
    names: list[str] = []
    for entry in path:
        names += entry.key if isinstance(entry.key, tuple) else [entry.key]
    return tuple(names)
