"""Model-level training: one jitted chunk of steps, shared by every method and every phase."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

from mnemonics_jax import together
from mnemonics_jax.data.augment import Augmentation
from mnemonics_jax.data.batches import Shuffled, Store
from mnemonics_jax.devices import Devices, all_devices
from mnemonics_jax.errors import NumbersError, UserError
from mnemonics_jax.methods import Bias, Classes, LossInputs, Method
from mnemonics_jax.nets.classifier import Classifier, Outputs, Variables, apply, apply_train
from mnemonics_jax.nets.heads import mask_logits
from mnemonics_jax.nets.transfer import restrict_transfer
from mnemonics_jax.rng import Key, Use, random_stream, stream_key

ADVICE = "try a smaller --train.learning-rate"


@dataclass(frozen=True)
class TrainConfig:
    """How Θ_i is trained in every phase."""

    epochs: int = 160
    """Passes over the phase's data and the exemplars."""
    later_epochs: int | None = None
    """The same in phases ≥ 1; epochs when not given."""
    batch_size: int = 128
    """Images of a step."""
    learning_rate: float = 0.1
    """Step size of the SGD at the start of each phase."""
    later_learning_rate: float | None = None
    """The same in phases ≥ 1; learning_rate when not given."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of the epochs after which the step size is multiplied by decay."""
    decay: float = 0.1
    """Factor of the step size at each milestone."""
    momentum: float = 0.9
    """Momentum of the SGD."""
    weight_decay: float = 5e-4
    """L2 penalty on all parameters, added to the gradient."""
    chunk_steps: int = 16
    """Steps of one compiled call; progress shows and numbers are checked after each."""

    def validate(self) -> None:
        """Raises `UserError` for a setting out of range."""
        for name in ("epochs", "batch_size", "chunk_steps", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UserError(f"--train.{name.replace('_', '-')} {getattr(self, name)}: must be positive")
        for name in ("later_epochs", "later_learning_rate"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise UserError(f"--train.{name.replace('_', '-')} {getattr(self, name)}: must be positive")
        if not 0 <= self.momentum < 1:
            raise UserError(f"--train.momentum {self.momentum}: choose from 0 up to below 1")
        if self.weight_decay < 0:
            raise UserError(f"--train.weight-decay {self.weight_decay}: must not be negative")
        if any(not 0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(set(self.milestones)):
            raise UserError(f"--train.milestones {self.milestones}: give rising shares of the epochs between 0 and 1")

    def epoch_steps(self, samples: int) -> int:
        """Steps of an epoch over so many samples."""
        return -(-samples // self.batch_size)

    def steps(self, phase: int, samples: int) -> int:
        """Steps of a phase that trains on so many samples."""
        epochs = self.epochs if phase == 0 else self.later_epochs or self.epochs
        return epochs * self.epoch_steps(samples)


class TrainState(NamedTuple):
    """What a training step changes."""

    variables: Variables
    opt_state: optax.OptState


class Context(NamedTuple):
    """What stays fixed during a phase's training."""

    previous: Variables
    classes: Classes
    bias: Bias


# Runs in step are in the same phase, so the previous model is computed in all of them or in none.
_BATCHED = (True, Context(previous=True, classes=False, bias=True), True, True)


class TrainBatches(NamedTuple):
    """K steps' inputs. A step that is not `active` (the last chunk's filler) changes nothing."""

    images: Shaped[Array, "steps batch height width channel"]
    labels: Int[np.ndarray, "steps batch"]
    learning_rate: Float[np.ndarray, "steps"]
    index: Int[np.ndarray, "steps"]
    active: Bool[np.ndarray, "steps"]


@dataclass(frozen=True)
class TrainProgram:
    """The static half of the training chunk: one compilation for each value."""

    net: Classifier
    method: Method
    augmentation: Augmentation
    momentum: float
    weight_decay: float
    devices: Devices = field(default_factory=all_devices)

    def optimizer(self) -> optax.GradientTransformation:
        """SGD as in PyTorch, its step size left to the caller: v ← μ v + (∇ + wd Θ)."""
        return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.trace(self.momentum))


@partial(jax.jit, static_argnames="program")
def train_chunk(
    program: TrainProgram, state: TrainState, context: Context, batches: TrainBatches, key: UInt32[Array, "2"]
) -> tuple[TrainState, tuple[Float[Array, "steps"], Float[Array, "steps"]]]:
    """K steps of SGD on the method's loss; also each step's loss and training accuracy (zeros where not active)."""
    optimizer, method, net = program.optimizer(), program.method, program.net
    key = jax.random.wrap_key_data(key)
    has_old = context.classes.old.any()

    def loss_fn(params: dict, stats: dict, images: Array, labels: Array) -> tuple[Array, tuple[dict, Array]]:
        outputs, stats = apply_train(net, Variables(params, stats), images)
        # Only phases with old classes need the previous model's outputs; the base phase skips the work.
        nothing = jax.tree.map(jnp.zeros_like, outputs)
        previous: Outputs = jax.lax.cond(has_old, lambda: apply(net, context.previous, images), lambda: nothing)
        loss = method.loss(LossInputs(outputs, previous, labels, context.classes, context.bias))
        guess = jnp.argmax(mask_logits(outputs.logits, context.classes.seen), axis=-1)
        return loss, (stats, (guess == labels).mean())

    def step(state: TrainState, batch: TrainBatches) -> tuple[TrainState, tuple[Array, Array]]:
        params, stats = state.variables
        images = program.augmentation.train(jax.random.fold_in(key, batch.index), batch.images)
        (loss, (stats, hits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, stats, images, batch.labels)
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
        updates = method.restrict(jax.tree.map(lambda u: -batch.learning_rate * u, updates), context.classes)
        updates = restrict_transfer(updates, has_old)
        log = (loss.astype(jnp.float32), hits.astype(jnp.float32))
        return TrainState(Variables(optax.apply_updates(params, updates), stats), opt_state), log

    def maybe(state: TrainState, batch: TrainBatches) -> tuple[TrainState, tuple[Array, Array]]:
        idle = (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
        return together.if_active(batch.active, step, state, batch, idle)

    return program.devices.keep_whole(jax.lax.scan(maybe, state, batches))


class Progress(NamedTuple):
    """How far a stage of a phase has come, after each chunk."""

    done: int
    total: int
    epoch: int
    loss: float
    accuracy: float


def train(
    program: TrainProgram,
    config: TrainConfig,
    variables: Variables,
    context: Context,
    store: Store,
    indices: Int[np.ndarray, "sample"],
    labels: Int[np.ndarray, "label"],
    key: Key,
    phase: int,
    report: Callable[[Progress], None],
    *,
    begun: tuple[int, TrainState] | None = None,
    keep: Callable[[int, TrainState], None] = lambda done, state: None,
) -> Variables:
    """Θ_i, trained from `variables` on the samples `indices` (into `store`), `labels[index]` being their classes.

    `keep` is handed (steps done, state) after each chunk; training that starts from such a pair as `begun` ends with
    the same bits. Raises `NumbersError` within one chunk of a loss that is not finite.
    """
    per_epoch, total = config.epoch_steps(len(indices)), config.steps(phase, len(indices))
    passed = np.arange(total)[:, None] >= np.round(np.asarray(config.milestones) * total)
    first = config.learning_rate if phase == 0 else config.later_learning_rate or config.learning_rate
    rates = (first * config.decay ** passed.sum(axis=1)).astype(np.float32)
    done, state = begun or (0, begin_training(program, variables))
    order = Shuffled(indices, random_stream(key, phase, Use.ORDER), config.batch_size, total)
    augment_key = stream_key(key, phase, Use.AUGMENT)
    images = store.chunks(order, done, config.chunk_steps, augment_key)
    state, context = program.devices.put_whole((state, context))

    for start in range(done, total, config.chunk_steps):
        steps = np.arange(start, start + config.chunk_steps)
        active = steps < total
        index = order.chunk(start, config.chunk_steps)
        batches = TrainBatches(
            images=next(images),
            labels=labels[index],
            learning_rate=rates[np.minimum(steps, total - 1)],
            index=steps.astype(np.int32),
            active=active,
        )
        state, (losses, hits) = together.call(
            train_chunk, program, state, context, batches, augment_key, batched=_BATCHED
        )
        losses, hits = np.asarray(losses)[active], np.asarray(hits)[active]
        done = int(steps[active][-1]) + 1
        if not np.isfinite(losses).all():
            bad = int(steps[active][np.flatnonzero(~np.isfinite(losses))[0]])
            raise NumbersError(f"the training loss is not finite at step {bad} of {total}", ADVICE)
        report(Progress(done, total, epoch_at(done, per_epoch), float(losses.mean()), 100 * float(hits.mean())))
        keep(done, state)
    # The last update has no loss after it that would show what it did.
    if not all_finite(state.variables):
        raise NumbersError(f"the model is not finite after step {total - 1} of {total}", ADVICE)
    return state.variables


def all_finite(tree: Any) -> bool:
    """Whether no float of a pytree is NaN or infinite."""
    leaves = (np.asarray(leaf) for leaf in jax.tree.leaves(tree))
    return all(np.isfinite(leaf).all() for leaf in leaves if np.issubdtype(leaf.dtype, np.floating))


def epoch_at(done: int, per_epoch: int) -> int:
    """The epoch, counted from 1, that the last of `done` steps belongs to; 0 before the first."""
    return -(-done // per_epoch)


@partial(jax.jit, static_argnames="program")
def begin_training(program: TrainProgram, variables: Variables) -> TrainState:
    """The state before the first step."""
    return TrainState(variables, program.optimizer().init(variables.params))
