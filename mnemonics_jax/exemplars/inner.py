"""The inner loop: fit a model to exemplars. Θ^E is made by it, and learned exemplars are learned for it."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, Int, Int32, PRNGKeyArray, Shaped, UInt32

from mnemonics_jax import bilevel
from mnemonics_jax.data.augment import Augmentation
from mnemonics_jax.data.batches import Shuffled
from mnemonics_jax.devices import Devices, all_devices
from mnemonics_jax.exemplars.base import Exemplars
from mnemonics_jax.methods.losses import cross_entropy
from mnemonics_jax.nets import scope_of
from mnemonics_jax.nets.classifier import (
    Classifier,
    Variables,
    apply,
    apply_head,
    imprint_means,
    imprint_ridge,
    init,
    reset_head,
)
from mnemonics_jax.nets.transfer import restrict_transfer
from mnemonics_jax.rng import RandomStream


class InnerBatches(NamedTuple):
    """T inner batches of b exemplars: flat slots of the memory and their weights (zero for slots not in use).

    `usable` is 1 for every slot that batches are drawn from, else 0.
    """

    slots: Int32[Array | np.ndarray, "steps batch"]
    weights: Float[Array | np.ndarray, "steps batch"]
    usable: Float[Array | np.ndarray, "slots"]


class Models(NamedTuple):
    """The models an inner loop may start from: Θ_i, and Θ_{i-1} (in phase 0 the initial network).

    `frozen`: whether weight transfer has frozen the convolution kernels, as in phases ≥ 1.
    """

    current: Variables
    previous: Variables
    frozen: Bool[Array | np.ndarray, ""] = np.asarray(False)


@dataclass(frozen=True)
class InnerProgram:
    """The static half of the inner loop: one compilation for each value."""

    net: Classifier
    settings: Exemplars
    augmentation: Augmentation
    devices: Devices = field(default_factory=all_devices)

    def prepare_images(
        self, key: PRNGKeyArray, images: Shaped[Array, "batch height width channel"]
    ) -> Float[Array, "batch height width channel"]:
        """Exemplars as the network gets them in an inner step."""
        return (
            self.augmentation.train(key, images) if self.settings.inner_augment else self.augmentation.evaluate(images)
        )


def draw_batches(settings: Exemplars, usable: Bool[np.ndarray, "classes slot"], stream: RandomStream) -> InnerBatches:
    """The batches of one inner loop: all usable slots at every step, or cuts of their shuffles by `stream`."""
    used, steps = usable.reshape(-1), settings.unroll_length
    weights = used.astype(np.float32)
    if settings.inner_batch is None:
        every = np.arange(len(used), dtype=np.int32)
        return InnerBatches(*(np.broadcast_to(row, (steps, len(row))) for row in (every, weights)), weights)
    order = Shuffled(np.flatnonzero(used), stream, settings.inner_batch, steps)
    # Without a step there is no batch: T may be 0.
    slots = np.array([*order], np.int32).reshape(steps, settings.inner_batch)
    return InnerBatches(slots, np.ones(slots.shape, np.float32), weights)


def start_point(program: InnerProgram, key: PRNGKeyArray, models: Models, shape: tuple[int, int, int]) -> Variables:
    """Where the inner loop starts, by `inner_init`. `shape` is (height, width, channel)."""
    net, current = program.net, models.current
    match program.settings.inner_init:
        case "current" | "class_means" | "ridge":  # `fit` sets the head, which depends on the exemplars
            return current
        case "previous":
            return models.previous
        case "reset_head":
            return current._replace(params=reset_head(net, key, current.params))
        case "fresh":
            return init(net, key, shape)
        case "partly_reset":
            new = init(net, key, shape)
            chosen = scope_of(current.params, "last_stage")
            return current._replace(
                params=jax.tree.map(lambda pick, n, c: n if pick else c, chosen, new.params, current.params)
            )
        case "perturbed":
            leaves, structure = jax.tree.flatten(current.params)
            keys = jax.random.split(key, len(leaves))
            # A tenth of each array's own spread: enough to leave the minimum, not enough to lose the features.
            noisy = [
                p + 0.1 * p.std() * jax.random.normal(k, p.shape, p.dtype) for p, k in zip(leaves, keys, strict=True)
            ]
            return current._replace(params=jax.tree.unflatten(structure, noisy))


def inner_step(settings: Exemplars, rate: Float[Array, ""]) -> optax.GradientTransformation:
    """The optimiser of one inner step, of step size `rate`."""
    if settings.inner_optimizer == "adam":
        # Without eps_root the meta-gradient is NaN wherever an inner gradient is exactly zero, as behind a dead ReLU.
        return optax.adam(rate, eps_root=1e-16)
    return optax.sgd(rate, settings.inner_momentum or None)


def fit(
    program: InnerProgram,
    start: Variables,
    pixels: Shaped[Array, "slots height width channel"],
    labels: Int[Array, "slots"],
    seen: Bool[Array, "classes"],
    batches: InnerBatches,
    key: PRNGKeyArray,
    rates: Float[Array, "steps"],
    frozen: Bool[Array, ""],
) -> Variables:
    """Θ'(E): T inner steps on the exemplars' cross-entropy over the classes seen, a function of `pixels` and `rates`.

    BatchNorm uses inference statistics, which stay as they are: an inner batch is too small to estimate them. `frozen`
    tells whether weight transfer has frozen the convolution kernels.
    """
    settings, net = program.settings, program.net
    if settings.inner_scope == "head" or settings.fits_head:
        features = apply(net, start, program.prepare_images(key, pixels)).features
    if settings.fits_head:
        start = start._replace(params=_fitted_head(settings, start.params, features, labels, batches.usable))
    if settings.unroll_length == 0:
        return start
    trained, fixed = _split(start.params, scope_of(start.params, settings.inner_scope))
    restrict = optax.stateless(lambda updates, _: restrict_transfer(updates, frozen))

    def optimizer(meta: tuple, step: Int[Array, ""]) -> optax.GradientTransformation:
        return optax.chain(inner_step(settings, meta[1][step]), restrict)

    def merged(trained: dict) -> Variables:
        return start._replace(params=unflatten_dict({**trained, **fixed}))

    def mean_loss(logits: Float[Array, "batch classes"], slots: Array, weights: Array) -> Float[Array, ""]:
        losses = cross_entropy(logits, labels[slots], seen)
        return (losses * weights).sum() / weights.sum()

    if settings.inner_scope == "head":
        # The features do not move, so each image passes through the backbone once, not once a step.
        def head_loss(trained: dict, meta: tuple, batch: tuple) -> Float[Array, ""]:
            slots, weights = batch
            return mean_loss(apply_head(net, merged(trained).params, meta[0][slots]).logits, slots, weights)

        steps = (batches.slots, batches.weights)
        return merged(bilevel.unroll(head_loss, optimizer, trained, (features, rates), steps, config=settings.unroll()))

    def loss(trained: dict, meta: tuple, batch: tuple) -> Float[Array, ""]:
        slots, weights, step_key = batch
        images = program.prepare_images(step_key, meta[0][slots])
        return mean_loss(apply(net, merged(trained), images).logits, slots, weights)

    steps = (batches.slots, batches.weights, jax.random.split(key, settings.unroll_length))
    return merged(bilevel.unroll(loss, optimizer, trained, (pixels, rates), steps, config=settings.unroll()))


def _fitted_head(
    settings: Exemplars,
    params: dict,
    features: Float[Array, "slots feature"],
    labels: Int[Array, "slots"],
    usable: Float[Array, "slots"],
) -> dict:
    if settings.inner_init == "ridge":
        return imprint_ridge(params, features, labels, usable, settings.inner_ridge)
    return imprint_means(params, features, labels, usable)


def _split(params: dict, chosen: dict) -> tuple[dict, dict]:
    """Params as two flat dicts, those to train and those to leave."""
    flat, chosen = flatten_dict(params), flatten_dict(chosen)
    return {k: v for k, v in flat.items() if chosen[k]}, {k: v for k, v in flat.items() if not chosen[k]}


@partial(jax.jit, static_argnames="program")
def fit_model(
    program: InnerProgram,
    models: Models,
    images: Shaped[Array | np.ndarray, "slots height width channel"],
    labels: Int[Array | np.ndarray, "slots"],
    seen: Bool[Array | np.ndarray, "classes"],
    batches: InnerBatches,
    rates: Float[Array | np.ndarray, "steps"],
    key: UInt32[Array | np.ndarray, "2"],
) -> Variables:
    """Θ^E: the inner loop's result on the memory as it is stored.

    A head in closed form that no step follows is fitted to the images as they are and to their mirror images, as
    iCaRL's means are: one random crop of each is the right thing for learning, not for a model to keep.
    """
    if program.settings.unroll_length == 0:
        program = replace(program, settings=replace(program.settings, inner_augment=False))
        if program.augmentation.flip:
            images, labels = jnp.concatenate([images, images[:, :, ::-1]]), jnp.concatenate([labels, labels])
            batches = batches._replace(usable=jnp.concatenate([batches.usable, batches.usable]))
    start_key, fit_key = jax.random.split(jax.random.wrap_key_data(key))
    start = start_point(program, start_key, models, images.shape[1:])
    return fit(program, start, images, labels, seen, batches, fit_key, rates, models.frozen)
