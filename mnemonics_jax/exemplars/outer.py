"""The outer loop of exemplar learning: gradient steps on pixels, through the unrolled inner loop."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped, UInt32

from mnemonics_jax import together
from mnemonics_jax.exemplars.inner import InnerBatches, InnerProgram, Models, fit, start_point
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.methods.losses import cross_entropy
from mnemonics_jax.nets.classifier import apply
from mnemonics_jax.nets.heads import normalize


class Learnable(NamedTuple):
    """What the outer loop learns: exemplar pixels in [0, 1], and the logarithm of each inner step's size."""

    pixels: Float[Array | np.ndarray, "slots height width channel"]
    log_rates: Float[Array | np.ndarray, "steps"]


class OuterProblem(NamedTuple):
    """What stays fixed while exemplars are learned.

    `learned` marks the slots that may change; their pixels stay between `low` and `high`, which lie within [0, 1].
    """

    models: Models
    labels: Int[Array | np.ndarray, "slots"]
    learned: Bool[Array | np.ndarray, "slots"]
    seen: Bool[Array | np.ndarray, "classes"]
    low: Float[Array | np.ndarray, "slots height width channel"]
    high: Float[Array | np.ndarray, "slots height width channel"]


class OuterBatches(NamedTuple):
    """K outer steps' inputs; a step that is not `active` changes nothing."""

    images: Shaped[Array | np.ndarray, "steps batch height width channel"]
    labels: Int[Array | np.ndarray, "steps batch"]
    inner: InnerBatches
    learning_rate: Float[Array | np.ndarray, "steps"]
    index: Int[Array | np.ndarray, "steps"]
    active: Bool[Array | np.ndarray, "steps"]


class OuterLog(NamedTuple):
    """Of each outer step: the outer loss before it and the norm of its meta-gradient before clipping."""

    loss: Float[Array, "steps"]
    gradient_norm: Float[Array, "steps"]


def outer_loss(
    program: InnerProgram, problem: OuterProblem, learnable: Learnable, batch: OuterBatches, key: PRNGKeyArray
) -> Float[Array, ""]:
    """L_c(Θ'(E); outer batch): cross-entropy, over the classes seen, of the model fitted to the exemplars.

    To it comes λ (1 − cos(φ(x), w_y)), λ the setting `anchor`, w_y the fitted head's vector of the sample's class: a
    softmax looks at differences only, so cross-entropy alone lets the vectors of a phase's classes drift away from
    all data together, and classes learned in another phase then attract everything. `batch` is one step's slice of
    `OuterBatches`.
    """
    pixels, log_rates = learnable
    start_key, fit_key, outer_key = jax.random.split(key, 3)
    start = start_point(program, start_key, problem.models, pixels.shape[1:])
    frozen = problem.models.frozen
    fitted = fit(program, start, pixels, problem.labels, problem.seen, batch.inner, fit_key, jnp.exp(log_rates), frozen)
    augmentation = program.augmentation
    if program.settings.outer_augment:
        images = augmentation.train(outer_key, batch.images)
    else:
        images = augmentation.evaluate(batch.images)
    outputs = apply(program.net, fitted, images)
    loss = cross_entropy(outputs.logits, batch.labels, problem.seen).mean()
    if program.settings.anchor:
        vectors = fitted.params["head"]["kernel"].T[batch.labels]
        cosines = (normalize(outputs.features, axis=-1) * normalize(vectors, axis=-1)).sum(axis=-1)
        loss += program.settings.anchor * (1 - cosines).mean()
    return loss


def optimizer(clip: float) -> optax.GradientTransformation:
    """Adam on the gradient clipped to the global norm `clip`, its step size left to the caller."""
    return optax.chain(optax.clip_by_global_norm(clip), optax.scale_by_adam())


@partial(jax.jit, static_argnames="program")
def learn_chunk(
    program: InnerProgram,
    problem: OuterProblem,
    learnable: Learnable,
    opt_state: optax.OptState,
    batches: OuterBatches,
    key: UInt32[Array | np.ndarray, "2"],
) -> tuple[Learnable, optax.OptState, OuterLog]:
    """K outer steps on the learned slots' pixels, within their bounds, and on the inner step sizes if they are learned.

    All other slots keep their pixels bit for bit.
    """
    settings: Mnemonics = program.settings
    transformation, key = optimizer(settings.outer_clip), jax.random.wrap_key_data(key)
    learned = problem.learned[:, None, None, None]

    def step(carry: tuple, batch: OuterBatches) -> tuple[tuple, OuterLog]:
        learnable, opt_state = carry
        step_key = jax.random.fold_in(key, batch.index)
        loss, grad = jax.value_and_grad(lambda value: outer_loss(program, problem, value, batch, step_key))(learnable)
        # Adam leaves alone what never has a gradient.
        log_rates = grad.log_rates if settings.learn_inner_rates else jnp.zeros_like(grad.log_rates)
        grad = Learnable(jnp.where(learned, grad.pixels, 0), log_rates)
        updates, opt_state = transformation.update(grad, opt_state, learnable)
        moved = jnp.clip(learnable.pixels - batch.learning_rate * updates.pixels, problem.low, problem.high)
        log_rates = learnable.log_rates - batch.learning_rate * updates.log_rates
        learnable = Learnable(jnp.where(learned, moved, learnable.pixels), log_rates)
        log = OuterLog(loss.astype(jnp.float32), optax.tree.norm(grad).astype(jnp.float32))
        return (learnable, opt_state), log

    def maybe(carry: tuple, batch: OuterBatches) -> tuple[tuple, OuterLog]:
        idle = OuterLog(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
        return together.if_active(batch.active, step, carry, batch, idle)

    (learnable, opt_state), log = jax.lax.scan(maybe, (learnable, opt_state), batches)
    return program.devices.keep_whole((learnable, opt_state, log))


@partial(jax.jit, static_argnames="program")
def outer_losses(
    program: InnerProgram,
    problem: OuterProblem,
    learnable: Learnable,
    batches: OuterBatches,
    key: UInt32[Array | np.ndarray, "2"],
) -> Float[Array, "steps"]:
    """The outer loss on each of K outer batches, without learning: the same batches compare two sets of exemplars."""
    key = jax.random.wrap_key_data(key)

    def one(_: None, batch: OuterBatches) -> tuple[None, Float[Array, ""]]:
        return None, outer_loss(program, problem, learnable, batch, jax.random.fold_in(key, batch.index))

    return program.devices.keep_whole(jax.lax.scan(one, None, batches)[1])
