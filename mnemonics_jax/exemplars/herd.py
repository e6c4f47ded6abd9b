"""The program of herding: greedy picks whose running mean follows the class mean of the features."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mnemonics_jax.runtime import kernels

# Classes herded in one call. Fewer are padded, so that every phase runs the same program.
_GROUP = 32


@partial(jax.jit, static_argnames="amount")
def herd(
    features: Float[Array, "classes sample feature"], valid: Bool[Array, "classes sample"], amount: int
) -> Int[Array, "classes {amount}"]:
    """Return each class's greedy picks p_k = argmin_x ‖μ − (φ(x) + Σ_{j<k} φ(p_j)) / k‖ over images not yet picked.

    φ are unit features and μ their mean over the `valid` rows, so the minimum is where φ(x)·(k μ − Σ_{j<k} φ(p_j)) is
    largest. Rows that are not valid are padding and never picked while valid ones remain.
    """

    return lax.platform_dependent(
        features, valid, cpu=partial(_herd_on_cpu, amount=amount), default=partial(_herd, amount=amount)
    )


def _herd_on_cpu(features: Array, valid: Array, amount: int) -> Array:
    return (kernels.herd if kernels.supports(features) else _herd)(features, valid, amount)


def _herd(features: Array, valid: Array, amount: int) -> Array:
    def one(rows: Float[Array, "sample feature"], usable: Bool[Array, " sample"]) -> Int[Array, " amount"]:
        norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
        unit = jnp.where(usable[:, None], rows / jnp.maximum(norms, 1e-12), 0)
        mean = unit.sum(axis=0) / jnp.maximum(usable.sum(), 1)

        order = jnp.arange(len(rows), dtype=jnp.int32)

        def pick(carry: tuple, _: None) -> tuple[tuple, Int[Array, ""]]:
            target, free = carry
            gains = jnp.where(free, unit @ target, -jnp.inf)
            # The first of the largest, as argmax would give, in two reductions that XLA vectorises on a CPU.
            best = jnp.min(jnp.where(gains == gains.max(), order, len(order)))
            return (target + mean - unit[best], free.at[best].set(False)), best

        _, picks = lax.scan(pick, (mean, usable), None, length=amount)
        return picks

    return jax.vmap(one)(features, valid)


def herd_classes(
    features: list[Float[np.ndarray, "_ feature"]], amount: int, room: int
) -> list[Int[np.ndarray, " amount"]]:
    """Return the picks of `herd` for classes of different sizes.

    Args:
        features: one array for each class, of `amount` to `room` rows.
        amount: images to pick of each class.
        room: rows that every class is padded to.
    """
    picks: list[Int[np.ndarray, " amount"]] = []
    for start in range(0, len(features), _GROUP):
        group = features[start : start + _GROUP]
        padded = np.zeros((_GROUP, room, group[0].shape[1]), np.float32)
        valid = np.zeros((_GROUP, room), bool)
        for row, rows in enumerate(group):
            padded[row, : len(rows)], valid[row, : len(rows)] = rows, True
        picks += list(np.asarray(herd(padded, valid, amount))[: len(group)])
    return picks
