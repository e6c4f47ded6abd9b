"""The outer loop of exemplar learning: gradient steps on pixels, through the unrolled inner loop."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped, UInt32

from mnemonics_jax.exemplars.inner import InnerBatches, InnerProgram, Models, fit, start_point
from mnemonics_jax.methods.losses import cross_entropy
from mnemonics_jax.nets.classifier import apply


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
    program: InnerProgram,
    problem: OuterProblem,
    pixels: Float[Array, "slots height width channel"],
    batch: OuterBatches,
    key: PRNGKeyArray,
) -> Float[Array, ""]:
    """L_c(Θ'(E); outer batch): cross-entropy, over the classes seen, of the model fitted to the exemplars.

    `batch` is one step's slice of `OuterBatches`.
    """
    start_key, fit_key, outer_key = jax.random.split(key, 3)
    start = start_point(program, start_key, problem.models, pixels.shape[1:])
    fitted = fit(program, start, pixels, problem.labels, problem.seen, batch.inner, fit_key, problem.models.frozen)
    settings, augmentation = program.settings, program.augmentation
    images = (
        augmentation.train(outer_key, batch.images) if settings.outer_augment else augmentation.evaluate(batch.images)
    )
    return cross_entropy(apply(program.net, fitted, images).logits, batch.labels, problem.seen).mean()


def optimizer(clip: float) -> optax.GradientTransformation:
    """Clipped Adam, its step size left to the caller."""
    return optax.chain(optax.clip_by_global_norm(clip), optax.scale_by_adam())


@partial(jax.jit, static_argnames="program")
def learn_chunk(
    program: InnerProgram,
    problem: OuterProblem,
    pixels: Float[Array, "slots height width channel"],
    opt_state: optax.OptState,
    batches: OuterBatches,
    key: UInt32[Array | np.ndarray, "2"],
) -> tuple[Float[Array, "slots height width channel"], optax.OptState, OuterLog]:
    """K outer steps on the learned slots' pixels, within their bounds; all other slots keep theirs bit for bit."""
    transformation, key = optimizer(program.settings.outer_clip), jax.random.wrap_key_data(key)
    learned = problem.learned[:, None, None, None]

    def step(carry: tuple, batch: OuterBatches) -> tuple[tuple, OuterLog]:
        pixels, opt_state = carry
        step_key = jax.random.fold_in(key, batch.index)
        loss, grad = jax.value_and_grad(lambda p: outer_loss(program, problem, p, batch, step_key))(pixels)
        grad = jnp.where(learned, grad, 0)
        updates, opt_state = transformation.update(grad, opt_state, pixels)
        moved = jnp.clip(pixels - batch.learning_rate * updates, problem.low, problem.high)
        return (jnp.where(learned, moved, pixels), opt_state), OuterLog(loss, optax.tree.norm(grad))

    def maybe(carry: tuple, batch: OuterBatches) -> tuple[tuple, OuterLog]:
        return jax.lax.cond(batch.active, step, lambda c, _: (c, OuterLog(jnp.zeros(()), jnp.zeros(()))), carry, batch)

    (pixels, opt_state), log = jax.lax.scan(maybe, (pixels, opt_state), batches)
    return pixels, opt_state, log


@partial(jax.jit, static_argnames="program")
def outer_losses(
    program: InnerProgram,
    problem: OuterProblem,
    pixels: Float[Array, "slots height width channel"],
    batches: OuterBatches,
    key: UInt32[Array | np.ndarray, "2"],
) -> Float[Array, "steps"]:
    """The outer loss on each of K outer batches, without learning: the same batches compare two sets of exemplars."""
    key = jax.random.wrap_key_data(key)

    def one(_: None, batch: OuterBatches) -> tuple[None, Float[Array, ""]]:
        return None, outer_loss(program, problem, pixels, batch, jax.random.fold_in(key, batch.index))

    return jax.lax.scan(one, None, batches)[1]
