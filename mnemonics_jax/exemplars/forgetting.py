"""Short trainings of a whole network: models made to forget, and models trained back on exemplars."""

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.nets.classifier import Classifier, Variables, apply_train
from mnemonics_jax.nets.losses import cross_entropy
from mnemonics_jax.nets.transfer import mask_transfer_updates
from mnemonics_jax.runtime.devices import Devices, all_devices

_MOMENTUM, _WEIGHT_DECAY = 0.9, 5e-4


@dataclass(frozen=True)
class ShortProgram:
    """Static inputs of a short training: each different value compiles another program."""

    net: Classifier
    augmentation: Augmentation
    devices: Devices = field(default_factory=all_devices)


class ShortBatches(NamedTuple):
    """Inputs of K training steps: images, class positions and the step sizes."""

    images: Shaped[Array | np.ndarray, "steps batch height width channel"]
    labels: Int[Array | np.ndarray, "steps batch"]
    learning_rate: Float[Array | np.ndarray, " steps"]


@partial(jax.jit, static_argnames="program")
def train_short(
    program: ShortProgram,
    variables: Variables,
    seen: Bool[Array | np.ndarray, " classes"],
    frozen: Bool[Array | np.ndarray, ""],
    batches: ShortBatches,
    key: UInt32[Array | np.ndarray, " 2"],
) -> Variables:
    """Return the model after K steps of SGD on the cross-entropy over the classes `seen`.

    `frozen` tells whether weight transfer has frozen the convolution kernels. `key` is the raw data of the PRNG key
    that draws crops and flips.
    """
    optimizer = optax.chain(optax.add_decayed_weights(_WEIGHT_DECAY), optax.trace(_MOMENTUM))
    keys = jax.random.split(jax.random.wrap_key_data(key), len(batches.learning_rate))

    def loss_fn(params: dict, stats: dict, images: Array, labels: Array) -> tuple[Array, dict]:
        outputs, stats = apply_train(program.net, Variables(params, stats), images)
        return cross_entropy(outputs.logits, labels, seen).mean(), stats

    def step(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
        (params, stats), opt_state = carry
        batch, step_key = inputs
        images = program.augmentation.train(step_key, batch.images)
        grads, stats = jax.grad(loss_fn, has_aux=True)(params, stats, images, batch.labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        updates = mask_transfer_updates(jax.tree.map(lambda u: -batch.learning_rate * u, updates), frozen)
        return (Variables(optax.apply_updates(params, updates), stats), opt_state), None

    start = (variables, optimizer.init(variables.params))
    (trained, _), _ = jax.lax.scan(step, start, (batches, keys))
    return program.devices.keep_whole(trained)


def decayed(peak: float, steps: int) -> Float[np.ndarray, " steps"]:
    """Return step sizes that are divided by ten after one half and after three quarters of the steps."""
    share = np.arange(steps) / steps
    return (peak * np.where(share < 0.5, 1, np.where(share < 0.75, 0.1, 0.01))).astype(np.float32)


def constant(rate: float, steps: int) -> Float[np.ndarray, " steps"]:
    """Return the same step size for every step."""
    return np.full(steps, rate, np.float32)


def lost_classes(new: range, old: int, number: int, rng: np.random.Generator) -> Int[np.ndarray, " lost"]:
    """Return the new classes that model `number` of a pool is to forget.

    With old classes, it forgets all the new ones. In the base phase, models 2k and 2k + 1 forget the two halves of one
    random split; `rng` draws it and must be in the same state for both. A single class cannot be split: none is lost.

    Args:
        new: positions of the phase's classes.
        old: number of old classes.
        number: number of the model in the pool.
        rng: draws the split.
    """
    if old:
        return np.asarray(new)
    shuffled = rng.permutation(np.asarray(new))
    half = len(shuffled) // 2
    return shuffled[:half] if number % 2 == 0 else shuffled[half:] if half else shuffled[:0]
