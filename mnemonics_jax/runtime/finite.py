"""A test for NaN and infinite numbers."""

from typing import Any

import jax
import numpy as np


def all_finite(tree: Any) -> bool:
    """Return whether no float of a pytree is NaN or infinite."""
    leaves = (np.asarray(leaf) for leaf in jax.tree.leaves(tree))
    return all(np.isfinite(leaf).all() for leaf in leaves if np.issubdtype(leaf.dtype, np.floating))
