"""The inner loop: fit a model to exemplars. It gives Θ^E, and exemplar learning differentiates through it."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped, UInt32

from mnemonics_jax import bilevel
from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.exemplars.base import ExemplarStrategy
from mnemonics_jax.exemplars.inner_batches import InnerBatches
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
from mnemonics_jax.nets.losses import cross_entropy
from mnemonics_jax.nets.transfer import mask_transfer_updates
from mnemonics_jax.runtime.devices import Devices, all_devices


class Models(NamedTuple):
    """The models an inner loop may start from: Θ_i, and Θ_{i-1} (in phase 0 the initial network).

    `frozen`: whether weight transfer has frozen the convolution kernels, as in phases ≥ 1.
    """

    current: Variables
    previous: Variables
    frozen: Bool[Array | np.ndarray, ""] = np.asarray(False)


class InnerProblem(NamedTuple):
    """Inputs of the inner loop besides pixels: the models, the class position of every slot, and the classes seen."""

    models: Models
    labels: Int[Array | np.ndarray, " slots"]
    seen: Bool[Array | np.ndarray, " classes"]


class Meta(NamedTuple):
    """Meta-variables, learned by the outer loop: exemplar pixels in [0, 1], logarithms of the inner step sizes."""

    pixels: Float[Array | np.ndarray, "slots height width channel"]
    log_rates: Float[Array | np.ndarray, " steps"]


@dataclass(frozen=True)
class InnerProgram:
    """Static inputs of the inner loop: each different value compiles another program."""

    net: Classifier
    settings: ExemplarStrategy
    augmentation: Augmentation
    devices: Devices = field(default_factory=all_devices)

    def prepare_images(
        self, key: PRNGKeyArray, images: Shaped[Array, "batch height width channel"]
    ) -> Float[Array, "batch height width channel"]:
        """Return exemplars as the network gets them in an inner step: as floats, augmented by `inner_augment`."""
        return (
            self.augmentation.train(key, images) if self.settings.inner_augment else self.augmentation.evaluate(images)
        )


def start_point(program: InnerProgram, key: PRNGKeyArray, models: Models, shape: tuple[int, int, int]) -> Variables:
    """Return the model that the inner loop starts from, by `inner_init`.

    `key` draws new parameters and noise; `shape` is (height, width, channel).
    """
    net, current = program.net, models.current
    match program.settings.inner_init:
        case "current" | "class_means" | "ridge":  # `InnerLoop.start` sets the head, which depends on the exemplars
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


def inner_step(settings: ExemplarStrategy, rate: Float[Array, ""]) -> optax.GradientTransformation:
    """Return the optimiser of one inner step, of step size `rate`."""
    if settings.inner_optimizer == "adam":
        # Without eps_root the meta-gradient is NaN wherever an inner gradient is exactly zero, as behind a dead ReLU.
        return optax.adam(rate, eps_root=1e-16)
    return optax.sgd(rate, settings.inner_momentum or None)


class InnerInputs(NamedTuple):
    """Inputs of the inner loop made of the meta-variables, once, before its first step.

    `images` are the pixels. Where the head alone is trained, they are the backbone's features of them: these do not
    change, so each image passes through the backbone once, not once in every step. `features` are given where the head
    starts from them, else None.
    """

    images: Shaped[Array, "slots ..."]
    features: Float[Array, "slots feature"] | None
    rates: Float[Array, " steps"]


@dataclass(frozen=True, eq=False)
class InnerLoop:
    """The inner problem in the terms of `bilevel`: meta-variables in, Θ'(E) out.

    The loss is the cross-entropy of the exemplars over the classes seen. BatchNorm uses inference statistics, which
    stay as they are: an inner batch is too small to estimate them. `base` is the model that the loop starts from,
    before its head is replaced where `inner_init` gives one in closed form; `key` draws crops and flips.
    """

    program: InnerProgram
    problem: InnerProblem
    batches: InnerBatches
    base: Variables
    key: PRNGKeyArray

    @property
    def length(self) -> int:
        """T, the unroll length."""
        return self._settings.unroll_length

    @property
    def steps(self) -> tuple:
        """Batch of each inner step: arrays with a leading axis of T."""
        slots = (self.batches.slots, self.batches.weights)
        return slots if self._trains_head else (*slots, jax.random.split(self.key, self.length))

    def encode(self, pixels: Shaped[Array, "slots height width channel"], rates: Float[Array, " steps"]) -> InnerInputs:
        """Return the inputs of the loop, made of exemplars and inner step sizes."""
        if not (self._trains_head or self._settings.fits_head):
            return InnerInputs(pixels, None, rates)
        features = self._features(pixels)
        kept = features if self._settings.fits_head else None
        return InnerInputs(features if self._trains_head else pixels, kept, rates)

    def _features(self, pixels: Shaped[Array, "slots height width channel"]) -> Float[Array, "slots feature"]:
        """Return the features of all slots, in parts of `inner_batch`, of which one is in memory at a time."""

        def features(key: PRNGKeyArray, images: Shaped[Array, "..."]) -> Float[Array, "..."]:
            return apply(self.program.net, self.base, self.program.prepare_images(key, images)).features

        slots, size = len(pixels), self._settings.inner_batch
        if size is None or size >= slots:
            return features(self.key, pixels)
        parts = -(-slots // size)
        padded = jnp.concatenate([pixels, jnp.zeros((parts * size - slots, *pixels.shape[1:]), pixels.dtype)])
        keys, images = jax.random.split(self.key, parts), padded.reshape(parts, size, *pixels.shape[1:])
        # Recomputed in the backward pass, which otherwise would keep the activations of all parts.
        found = jax.lax.map(lambda part: jax.checkpoint(features)(*part), (keys, images))
        return found.reshape(parts * size, -1)[:slots]

    def start(self, inputs: InnerInputs, init: None = None) -> dict:
        """Return Θ_0: the parameters that are trained, by their paths."""
        del init
        params = self.base.params
        if self._settings.fits_head:
            params = _fitted_head(self._settings, params, inputs.features, self.problem.labels, self.batches.usable)
        return self._split(params)[0]

    def loss(self, trained: dict, inputs: InnerInputs, batch: tuple) -> Float[Array, ""]:
        """Return the loss of one inner batch."""
        slots, weights, *step_key = batch
        net, images = self.program.net, inputs.images[slots]
        if self._trains_head:
            logits = apply_head(net, self.merge(trained).params, images).logits
        else:
            logits = apply(net, self.merge(trained), self.program.prepare_images(*step_key, images)).logits
        losses = cross_entropy(logits, self.problem.labels[slots], self.problem.seen)
        return (losses * weights).sum() / weights.sum()

    def optimizer(self, inputs: InnerInputs, step: Int[Array, ""]) -> optax.GradientTransformation:
        """Return the optimiser of one inner step; it leaves frozen convolution kernels alone."""
        frozen = self.problem.models.frozen
        mask = optax.stateless(lambda updates, _: mask_transfer_updates(updates, frozen))
        return optax.chain(inner_step(self._settings, inputs.rates[step]), mask)

    def merge(self, trained: dict) -> Variables:
        """Return the whole model: trained parameters in their places, all others as in `base`."""
        fixed = self._split(self.base.params)[1]
        return self.base._replace(params=unflatten_dict({**trained, **fixed}))

    def _split(self, params: dict) -> tuple[dict, dict]:
        """Return the parameters as two flat dicts: those to train and those that stay."""
        flat, chosen = flatten_dict(params), flatten_dict(scope_of(params, self._settings.inner_scope))
        return {k: v for k, v in flat.items() if chosen[k]}, {k: v for k, v in flat.items() if not chosen[k]}

    @property
    def _settings(self) -> ExemplarStrategy:
        return self.program.settings

    @property
    def _trains_head(self) -> bool:
        return self._settings.inner_scope == "head"


def run_inner_loop(loop: InnerLoop, inputs: InnerInputs) -> Variables:
    """Return Θ'(E), the model after T inner steps on the exemplars, as a differentiable function of `inputs`."""
    config, start = loop.program.settings.unroll(), loop.start(inputs)
    return loop.merge(
        bilevel.unroll(loop.loss, loop.optimizer, start, inputs, loop.steps, length=loop.length, config=config)
    )


def _fitted_head(
    settings: ExemplarStrategy,
    params: dict,
    features: Float[Array, "slots feature"],
    labels: Int[Array, " slots"],
    usable: Float[Array, " slots"],
) -> dict:
    if settings.inner_init == "ridge":
        return imprint_ridge(params, features, labels, usable, settings.inner_ridge)
    return imprint_means(params, features, labels, usable)


@partial(jax.jit, static_argnames="program")
def fit_exemplar_model(
    program: InnerProgram,
    problem: InnerProblem,
    images: Shaped[Array | np.ndarray, "slots height width channel"],
    rates: Float[Array | np.ndarray, " steps"],
    batches: InnerBatches,
    key: UInt32[Array | np.ndarray, " 2"],
) -> Variables:
    """Return Θ^E: the result of the inner loop on the memory as it is stored.

    A closed-form head that no inner step follows is fitted to the images as they are and to their mirror images, as
    iCaRL's means are: one random crop of each is right for learning, not for the model that is evaluated.

    Args:
        program: static inputs.
        problem: models, labels of the slots, classes seen.
        images: uint8, or float32 in [0, 1].
        rates: step size of each inner step.
        batches: batches of the inner loop.
        key: raw data of the PRNG key that draws new parameters, crops and flips.
    """
    if program.settings.unroll_length == 0:
        program = replace(program, settings=replace(program.settings, inner_augment=False))
        if program.augmentation.flip:
            images = jnp.concatenate([images, images[:, :, ::-1]])
            problem = problem._replace(labels=jnp.concatenate([problem.labels, problem.labels]))
            batches = batches._replace(usable=jnp.concatenate([batches.usable, batches.usable]))
    start_key, fit_key = jax.random.split(jax.random.wrap_key_data(key))
    base = start_point(program, start_key, problem.models, images.shape[1:])
    loop = InnerLoop(program, problem, batches, base, fit_key)
    return run_inner_loop(loop, loop.encode(images, rates))
