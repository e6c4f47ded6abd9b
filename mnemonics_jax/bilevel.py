"""Bilevel optimisation: run an inner training loop and differentiate an outer loss through it.

The problem, with meta-variables m (pixels of training examples, soft labels, inner learning rates, an initialisation:
any pytree), inner parameters Θ and an optimiser's update U with state s:

    minimise over m   F(Θ_T, m; outer batch)
    where             Θ_0 = start(m, init),   (Θ_{t+1}, s_{t+1}) = U(Θ_t, s_t, g_t),   g_t = ∇_Θ L(Θ_t, m; batch_t).

`unroll` computes Θ_T by `jax.lax.scan`; `meta_value_and_grad` adds dF/dm by reverse mode over the inner reverse mode.
The inner loss is never differentiated forwards, so it may be built of `jax.custom_vjp` functions, provided that their
backward rules can be differentiated in turn.

Two points on a line, moved so that eight gradient steps on their mean squared distance lead from 0 to the target 3:

>>> import jax, jax.numpy as jnp, optax
>>> inner = lambda theta, points, batch: 0.5 * jnp.mean((theta - points) ** 2)
>>> outer = lambda theta, points, target: 0.5 * (theta - target) ** 2
>>> value_and_grad = jax.jit(meta_value_and_grad(outer, inner, optax.sgd(0.5), length=8))
>>> points = jnp.array([-1.0, 1.0])
>>> for _ in range(40):
...     value, gradient = value_and_grad(points, jnp.array(0.0), None, jnp.array(3.0))
...     points = points - gradient
>>> print(", ".join(f"{point:.2f}" for point in points))
2.01, 4.01
>>> print(f"{unroll(inner, optax.sgd(0.5), jnp.array(0.0), points, length=8):.3f}")
3.000

What each mode of `Unroll` costs, for T steps whose parameters and optimiser state take p bytes and whose inner gradient
leaves a bytes of intermediate results (a is usually by far the larger):

    mode               memory              time                                  bias of dF/dm
    remat="none"       T·(a + p)           the least arithmetic                  none
    remat="step"       T·p + a             computes each inner step once more    none
    remat="segments"   about 2·√T·p + a    computes each inner step twice more   none
    remat="auto"       "segments" where T·p is more than 15 % of a, else "step"  none
    truncate=K         K in place of T     no backward pass of T − K steps       drops what they pass on to Θ_T: of the
                                                                                 order of ρᴷ if a step contracts by ρ
    first_order=True   as without          no products with ∂²L/∂Θ²              takes ∂²L/∂Θ² for zero

Square roots at zero. An optimiser that takes the root of a quantity that vanishes with a gradient entry (a dead ReLU, a
class absent from the batch) takes a finite step whose derivative is 0·∞ = NaN. Adam therefore needs its `eps_root`:
`optax.adam(rate, eps_root=1e-16)`, a constant well below the squares of the gradients that matter.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Shaped

Params = PyTree[Float[Array, "..."], "Params"]
Meta = PyTree
Batches = PyTree[Shaped[Array, "steps ..."]]
Loss = Callable[[Params, Meta, Any], Float[Array, ""]]
Optimizer = optax.GradientTransformation | Callable[[Meta, Int[Array, ""]], optax.GradientTransformation]
Remat = Literal["auto", "none", "step", "segments"]

_SHARE, _NEGLIGIBLE = 0.15, 2**24
"""What the parameters of all steps may add to the activations of one before "auto" keeps fewer of them, and the bytes
of parameters below which it does not look."""


@dataclass(frozen=True)
class Unroll:
    """How the inner loop is differentiated; the table of the module compares the modes. Hashable, so static in jit.

    Attributes:
        remat: what the backward pass recomputes instead of storing it: nothing, the inside of every step, or runs of
            about √T steps and the inside of every step in them; or what of the last two suits the sizes. Changes the
            cost, never the result.
        truncate: K: the gradient flows through the last K of the T steps. Θ_{T−K} and s_{T−K} count as constants, so m
            gets nothing by way of the earlier steps or of Θ_0. None: all T steps.
        first_order: each inner gradient is evaluated at a constant copy sg(Θ_t), g_t = ∇_Θ L(sg(Θ_t), m; batch_t), thus

                dΘ_{t+1}/dm = ∂U/∂Θ · dΘ_t/dm + ∂U/∂s · ds_t/dm + ∂U/∂g · ∂²L/∂m∂Θ,

            and ds_{t+1}/dm in the same way. What is missing is ∂U/∂g · ∂²L/∂Θ² · dΘ_t/dm. For gradient descent of rate
            α that puts I in the place of I − α ∂²L/∂Θ² as the factor between dΘ_{t+1} and dΘ_t.

    Raises:
        ValueError: `remat` is not one of the four names, or `truncate` is below 1.
    """

    remat: Remat = "auto"
    truncate: int | None = None
    first_order: bool = False

    def __post_init__(self) -> None:
        if self.remat not in get_args(Remat):
            raise ValueError(f"unknown remat={self.remat!r}: give one of {', '.join(map(repr, get_args(Remat)))}")
        if self.truncate is not None and self.truncate < 1:
            raise ValueError(f"truncate={self.truncate} leaves no step to differentiate: give 1 or more, or None")


def unroll(
    inner_loss: Loss,
    optimizer: Optimizer,
    params: Params,
    meta: Meta = None,
    batches: Batches | None = None,
    *,
    length: int | None = None,
    config: Unroll = Unroll(),
) -> Params:
    """Return Θ_T: parameters after T optimiser steps, differentiable by `params`, `meta` and `batches`.

    Args:
        inner_loss: `inner_loss(params, meta, batch) -> scalar`, twice differentiable by reverse mode.
        optimizer: an optax transformation, or `optimizer(meta, step)` that returns one, with `step` the int32 index of
            the inner step. The second form learns hyperparameters: `lambda meta, step: optax.sgd(meta["rates"][step])`
            has a rate for each step. The structure of the state must not depend on `step`.
        params: Θ_0, a pytree of floating-point arrays.
        meta: m, any pytree; what it means is up to `inner_loss` and `optimizer`.
        batches: a pytree whose arrays have a leading axis of T, slice t of which is the batch of step t; or None.
        length: T, static. Needed only where `batches` holds no array; each step's batch is then `batches` itself. With
            T = 0, Θ_0 is the result: an inner problem that `start` has solved in closed form.
        config: how to differentiate.

    Returns:
        Θ_T, of the structure, shapes and dtypes of `params`.

    Raises:
        ValueError: T is unknown or negative, the leading axes disagree, or `config.truncate` exceeds T.
    """
    steps = _count_steps(batches, length)
    if steps == 0:
        return params
    kept = steps if config.truncate is None else config.truncate
    if kept > steps:
        raise ValueError(f"truncate={kept} exceeds the {steps} inner steps: give 1 to {steps}, or None for all")
    optimizer_at = (lambda meta, step: optimizer) if isinstance(optimizer, optax.GradientTransformation) else optimizer

    def run(carry: PyTree, meta: PyTree, xs: PyTree) -> PyTree:
        def step(carry: PyTree, x: PyTree) -> tuple[PyTree, None]:
            (params, state), (index, batch) = carry, x
            point = jax.lax.stop_gradient(params) if config.first_order else params
            gradient = jax.grad(inner_loss)(point, meta, batch)
            updates, state = optimizer_at(meta, index).update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        remat = config.remat
        if remat == "auto":
            remat = _suited(inner_loss, carry, meta, xs)
        return _scan(step, carry, xs, remat)

    carry = (params, optimizer_at(meta, jnp.int32(0)).init(params))
    xs = (jnp.arange(steps, dtype=jnp.int32), batches)
    if kept < steps:
        # Constant inputs keep the head from storing anything; a constant result also covers what the losses close over.
        head = _rows(xs, 0, steps - kept)
        carry = jax.lax.stop_gradient(run(*jax.lax.stop_gradient((carry, meta, head))))
        xs = _rows(xs, steps - kept, steps)
    return run(carry, meta, xs)[0]


def meta_value_and_grad(
    outer_loss: Loss,
    inner_loss: Loss,
    optimizer: Optimizer,
    *,
    start: Callable[[Any, Any], Any] = lambda meta, init: init,
    length: int | None = None,
    has_aux: bool = False,
    config: Unroll = Unroll(),
) -> Callable[[Meta, Any, Batches | None, Any], tuple[Any, Meta]]:
    """Return a function that gives the outer loss after the inner loop and its gradient by the meta-variables.

    Args:
        outer_loss: `outer_loss(fitted_params, meta, outer_batch) -> scalar`, or `-> (scalar, aux)` with `has_aux`.
        inner_loss: as for `unroll`.
        optimizer: as for `unroll`.
        start: `start(meta, init) -> params` makes Θ_0 of m and of what the caller passes as `init`: Θ_0 itself by
            default. `lambda meta, init: meta["init"]` learns the initialisation; `init` may as well be a PRNG key to
            draw Θ_0 from, or fixed parameters that `start` completes by learned ones.
        length: as for `unroll`.
        has_aux: whether `outer_loss` returns something beside its value.
        config: how to differentiate.

    Returns:
        A pure function `(meta, init, batches, outer_batch) -> (value, gradient)`, to be jitted by the caller, with
        `gradient` like `meta`; with `has_aux`, `-> ((value, aux), gradient)`. It raises what `unroll` raises.
    """

    def value(meta: PyTree, init: PyTree, batches: PyTree, outer_batch: PyTree) -> Any:
        fitted = unroll(inner_loss, optimizer, start(meta, init), meta, batches, length=length, config=config)
        return outer_loss(fitted, meta, outer_batch)

    return jax.value_and_grad(value, has_aux=has_aux)


def _count_steps(batches: PyTree, length: int | None) -> int:
    leading = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    leading |= set() if length is None else {(length,)}
    if not leading:
        raise ValueError("length=None and batches without arrays do not tell the number of inner steps: give length")
    if len(leading) > 1 or () in leading:
        raise ValueError(f"every array of batches needs one leading axis, equal to length if given; found {leading}")
    ((steps,),) = leading
    if steps < 0:
        raise ValueError(f"{steps} inner steps: give 0 (Θ_0 is the answer) or more")
    return steps


def _suited(inner_loss: Loss, carry: PyTree, meta: PyTree, xs: PyTree) -> Remat:
    """Return "segments" where the carries of all steps take much memory beside the activations of one, else "step".

    Activations are estimated from shapes alone: differentiating a gradient keeps about twice what the gradient does.
    """
    (index, batches), (params, _) = xs, carry
    kept = len(index) * _bytes(carry)
    if kept < _NEGLIGIBLE:
        return "step"
    batch = jax.tree.map(lambda x: x[0], batches)
    backward = jax.eval_shape(lambda *args: jax.vjp(lambda *args: inner_loss(*args, batch), *args)[1], params, meta)
    return "segments" if kept > _SHARE * 2 * _bytes(backward) else "step"


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _scan(step: Callable, carry: PyTree, xs: PyTree, remat: Remat) -> PyTree:
    """Return the final carry of `step` scanned over `xs`; `remat` says what is stored for the backward pass."""
    if remat == "none":
        return jax.lax.scan(step, carry, xs)[0]
    # The recomputation lies in another loop than the original, so no common-subexpression pass can merge the two.
    step = jax.checkpoint(step, prevent_cse=False)
    if remat == "segments":
        steps = len(jax.tree.leaves(xs)[0])
        # A single step that is left over would be no loop, and XLA would store its inside.
        size = next(size for size in range(math.isqrt(steps), steps + 1) if steps % size != 1)
        whole = steps - steps % size
        segment = jax.checkpoint(lambda carry, xs: jax.lax.scan(step, carry, xs), prevent_cse=False)
        folded = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), xs)
        carry = jax.lax.scan(segment, carry, folded)[0]
        # Fewer than `size` steps are left over, which is no more to store than a segment.
        xs = _rows(xs, whole, steps)
    return jax.lax.scan(step, carry, xs)[0]


def _rows(tree: PyTree, begin: int, end: int) -> PyTree:
    return jax.tree.map(lambda x: x[begin:end], tree)
