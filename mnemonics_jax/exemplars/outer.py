"""The outer loop of exemplar learning: gradient steps on pixels, through the unrolled inner loop."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped, UInt32

from mnemonics_jax import bilevel
from mnemonics_jax.exemplars.inner import (
    InnerInputs,
    InnerLoop,
    InnerProblem,
    InnerProgram,
    Meta,
    run_inner_loop,
    start_point,
)
from mnemonics_jax.exemplars.inner_batches import InnerBatches
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.nets.classifier import Variables, apply
from mnemonics_jax.nets.losses import cross_entropy
from mnemonics_jax.nets.outputs import normalize
from mnemonics_jax.runtime import lockstep


class OuterProblem(NamedTuple):
    """Constant inputs of the outer steps.

    `learned` marks the slots that may change; their pixels stay between `low` and `high`, which lie within [0, 1].
    """

    inner: InnerProblem
    learned: Bool[Array | np.ndarray, " slots"]
    low: Float[Array | np.ndarray, "slots height width channel"]
    high: Float[Array | np.ndarray, "slots height width channel"]


class OuterBatches(NamedTuple):
    """Inputs of K outer steps; a step that is not `active` changes nothing."""

    images: Shaped[Array | np.ndarray, "steps batch height width channel"]
    labels: Int[Array | np.ndarray, "steps batch"]
    inner: InnerBatches
    learning_rate: Float[Array | np.ndarray, " steps"]
    index: Int[Array | np.ndarray, " steps"]
    active: Bool[Array | np.ndarray, " steps"]


class OuterLog(NamedTuple):
    """Outer loss before each outer step, and norm of its meta-gradient before clipping."""

    loss: Float[Array, " steps"]
    gradient_norm: Float[Array, " steps"]


def outer_loss(
    program: InnerProgram, problem: OuterProblem, meta: Meta, batch: OuterBatches, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Return L_c(Θ'(E); outer batch), the loss of the model fitted to the exemplars (see `judge`).

    `batch` is one step's slice of `OuterBatches`; `key` draws the start of the inner loop, its crops, and those of the
    outer batch.
    """
    loop, outer_key = _inner_loop(program, problem, meta, batch, key)
    fitted = run_inner_loop(loop, loop.encode(meta.pixels, jnp.exp(meta.log_rates)))
    return judge(program, problem, fitted, batch, outer_key)


def meta_gradient(
    program: InnerProgram, problem: OuterProblem, meta: Meta, batch: OuterBatches, key: PRNGKeyArray
) -> tuple[Float[Array, ""], Meta]:
    """Return `outer_loss` and its gradient by the exemplars and the inner step sizes.

    `bilevel` differentiates with respect to the inputs of the inner loop (features, where the head alone is trained);
    the pull-back of `InnerLoop.encode` completes the chain rule.
    """
    loop, outer_key = _inner_loop(program, problem, meta, batch, key)

    def encode(meta: Meta) -> InnerInputs:
        return loop.encode(meta.pixels, jnp.exp(meta.log_rates))

    def outer(trained: dict, inputs: InnerInputs, batch: OuterBatches) -> Float[Array, ""]:
        del inputs
        return judge(program, problem, loop.merge(trained), batch, outer_key)

    inputs, pull_back = jax.vjp(encode, meta)
    value_and_grad = bilevel.meta_value_and_grad(
        outer, loop.loss, loop.optimizer, start=loop.start, length=loop.length, config=program.settings.unroll()
    )
    loss, gradient = value_and_grad(inputs, None, loop.steps, batch)
    return loss, *pull_back(gradient)


def _inner_loop(
    program: InnerProgram, problem: OuterProblem, meta: Meta, batch: OuterBatches, key: PRNGKeyArray
) -> tuple[InnerLoop, PRNGKeyArray]:
    """Return the inner loop of one outer step, and the key of its outer batch."""
    start_key, fit_key, outer_key = jax.random.split(key, 3)
    base = start_point(program, start_key, problem.inner.models, meta.pixels.shape[1:])
    return InnerLoop(program, problem.inner, batch.inner, base, fit_key), outer_key


def judge(
    program: InnerProgram, problem: OuterProblem, fitted: Variables, batch: OuterBatches, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Return the cross-entropy of a fitted model on an outer batch, over the classes seen.

    Added to it is λ (1 − cos(φ(x), w_y)), where λ is the setting `anchor` and w_y the vector of the sample's class in
    the fitted head. A softmax depends on differences of logits only. So with cross-entropy alone, the vectors of all
    classes of a phase can drift away from their data together, and the samples then go to classes of other phases.
    """
    settings: Mnemonics = program.settings
    augmentation = program.augmentation
    images = augmentation.train(key, batch.images) if settings.outer_augment else augmentation.evaluate(batch.images)
    outputs = apply(program.net, fitted, images)
    loss = cross_entropy(outputs.logits, batch.labels, problem.inner.seen).mean()
    if settings.anchor:
        vectors = fitted.params["head"]["kernel"].T[batch.labels]
        cosines = (normalize(outputs.features, axis=-1) * normalize(vectors, axis=-1)).sum(axis=-1)
        loss += settings.anchor * (1 - cosines).mean()
    return loss


def optimizer(clip: float) -> optax.GradientTransformation:
    """Return Adam on the gradient clipped to the global norm `clip`, its step size left to the caller."""
    return optax.chain(optax.clip_by_global_norm(clip), optax.scale_by_adam())


@partial(jax.jit, static_argnames="program")
def learn_chunk(
    program: InnerProgram,
    problem: OuterProblem,
    meta: Meta,
    opt_state: optax.OptState,
    batches: OuterBatches,
    key: UInt32[Array | np.ndarray, " 2"],
) -> tuple[Meta, optax.OptState, OuterLog]:
    """Take K outer steps on the pixels of the learned slots, within bounds, and on learned inner step sizes.

    All other slots keep their pixels bit for bit. `key` is the raw data of a PRNG key.

    Returns:
        The meta-variables and the optimiser state after the steps, and the log of each step.
    """
    settings: Mnemonics = program.settings
    transformation, key = optimizer(settings.outer_clip), jax.random.wrap_key_data(key)
    learned = problem.learned[:, None, None, None]

    def step(carry: tuple, batch: OuterBatches) -> tuple[tuple, OuterLog]:
        meta, opt_state = carry
        step_key = jax.random.fold_in(key, batch.index)
        loss, grad = meta_gradient(program, problem, meta, batch, step_key)
        # Adam leaves alone what never has a gradient.
        log_rates = grad.log_rates if settings.learn_inner_rates else jnp.zeros_like(grad.log_rates)
        grad = Meta(jnp.where(learned, grad.pixels, 0), log_rates)
        updates, opt_state = transformation.update(grad, opt_state, meta)
        moved = jnp.clip(meta.pixels - batch.learning_rate * updates.pixels, problem.low, problem.high)
        log_rates = meta.log_rates - batch.learning_rate * updates.log_rates
        meta = Meta(jnp.where(learned, moved, meta.pixels), log_rates)
        log = OuterLog(loss.astype(jnp.float32), optax.tree.norm(grad).astype(jnp.float32))
        return (meta, opt_state), log

    def maybe(carry: tuple, batch: OuterBatches) -> tuple[tuple, OuterLog]:
        idle = OuterLog(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
        return lockstep.masked_step(batch.active, step, carry, batch, idle)

    (meta, opt_state), log = jax.lax.scan(maybe, (meta, opt_state), batches)
    return program.devices.keep_whole((meta, opt_state, log))


@partial(jax.jit, static_argnames="program")
def outer_losses(
    program: InnerProgram,
    problem: OuterProblem,
    meta: Meta,
    batches: OuterBatches,
    key: UInt32[Array | np.ndarray, " 2"],
) -> Float[Array, " steps"]:
    """Return the outer loss on each of K outer batches; the same batches compare two sets of exemplars.

    `key` is the raw data of a PRNG key.
    """
    key = jax.random.wrap_key_data(key)

    def one(_: None, batch: OuterBatches) -> tuple[None, Float[Array, ""]]:
        return None, outer_loss(program, problem, meta, batch, jax.random.fold_in(key, batch.index))

    return program.devices.keep_whole(jax.lax.scan(one, None, batches)[1])
