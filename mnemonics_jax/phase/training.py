"""Model-level training: one jitted chunk of steps, shared by every method and every phase."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

from mnemonics_jax.config.train import TrainConfig
from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.data.image_store import Samples
from mnemonics_jax.data.sampling import Shuffled
from mnemonics_jax.methods import Classes, LogitCorrection, LossInputs, Method
from mnemonics_jax.nets.classifier import Classifier, Outputs, Variables, apply, apply_train
from mnemonics_jax.nets.heads import mask_head_updates
from mnemonics_jax.nets.outputs import mask_logits
from mnemonics_jax.nets.transfer import mask_transfer_updates
from mnemonics_jax.runtime import lockstep
from mnemonics_jax.runtime.devices import Devices, all_devices
from mnemonics_jax.runtime.errors import NotFinite
from mnemonics_jax.runtime.random_streams import Key, PhaseStreams, Use

ADVICE = "try a smaller --train.learning-rate"


class TrainState(NamedTuple):
    """State that training steps change."""

    variables: Variables
    opt_state: optax.OptState


class Context(NamedTuple):
    """Constant inputs of a phase's training: Θ_{i-1}, the masks of classes, and the correction of its logits."""

    previous: Variables
    classes: Classes
    correction: LogitCorrection


# Runs in lockstep are in the same phase, so all of them or none compute the previous model's outputs.
_BATCHED = (True, Context(previous=True, classes=False, correction=True), True, True)


class TrainBatches(NamedTuple):
    """Inputs of K steps. A step that is not `active` (it only fills up the last chunk) changes nothing."""

    images: Shaped[Array, "steps batch height width channel"]
    labels: Int[np.ndarray, "steps batch"]
    learning_rate: Float[np.ndarray, " steps"]
    index: Int[np.ndarray, " steps"]
    active: Bool[np.ndarray, " steps"]


class TrainLog(NamedTuple):
    """Loss of each step of a chunk, and share of its batch that is classified correctly."""

    loss: Float[Array, "*steps"]
    accuracy: Float[Array, "*steps"]


@dataclass(frozen=True)
class TrainProgram:
    """Static inputs of a training chunk: each different value compiles another program."""

    net: Classifier
    method: Method
    augmentation: Augmentation
    momentum: float
    weight_decay: float
    devices: Devices = field(default_factory=all_devices)

    def optimizer(self) -> optax.GradientTransformation:
        """Return SGD as in PyTorch, its step size left to the caller: v ← μ v + (∇ + wd Θ)."""
        return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.trace(self.momentum))


@partial(jax.jit, static_argnames="program")
def train_chunk(
    program: TrainProgram, state: TrainState, context: Context, batches: TrainBatches, key: UInt32[Array, " 2"]
) -> tuple[TrainState, TrainLog]:
    """Take K steps of SGD on the method's loss; steps that are not active log zeros.

    Head columns of classes that are not seen yet stay as they are, whatever the method: see `mask_head_updates`.

    `key` is the raw data of the PRNG key that draws crops and flips.

    Returns:
        The state after the steps, and the log of each step.
    """
    optimizer, method, net = program.optimizer(), program.method, program.net
    key = jax.random.wrap_key_data(key)
    has_old = context.classes.old.any()

    def loss_fn(params: dict, stats: dict, images: Array, labels: Array) -> tuple[Array, tuple[dict, Array]]:
        outputs, stats = apply_train(net, Variables(params, stats), images)
        # Only phases with old classes need the previous model's outputs; the base phase skips the work.
        nothing = jax.tree.map(jnp.zeros_like, outputs)
        previous: Outputs = jax.lax.cond(has_old, lambda: apply(net, context.previous, images), lambda: nothing)
        loss = method.loss(LossInputs(outputs, previous, labels, context.classes, context.correction))
        guess = jnp.argmax(mask_logits(outputs.logits, context.classes.seen), axis=-1)
        return loss, (stats, (guess == labels).mean())

    def step(state: TrainState, batch: TrainBatches) -> tuple[TrainState, TrainLog]:
        params, stats = state.variables
        images = program.augmentation.train(jax.random.fold_in(key, batch.index), batch.images)
        (loss, (stats, hits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, stats, images, batch.labels)
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
        updates = method.mask_updates(jax.tree.map(lambda u: -batch.learning_rate * u, updates), context.classes)
        updates = mask_head_updates(mask_transfer_updates(updates, has_old), context.classes.seen)
        log = TrainLog(loss.astype(jnp.float32), hits.astype(jnp.float32))
        return TrainState(Variables(optax.apply_updates(params, updates), stats), opt_state), log

    def maybe(state: TrainState, batch: TrainBatches) -> tuple[TrainState, TrainLog]:
        idle = TrainLog(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
        return lockstep.masked_step(batch.active, step, state, batch, idle)

    return program.devices.keep_whole(jax.lax.scan(maybe, state, batches))


@dataclass(frozen=True)
class TrainingLoop:
    """The training of Θ_i on `samples` from `start`, as a `ChunkProgram`; `streams` are the phase's random streams."""

    not_finite: ClassVar[NotFinite] = NotFinite("the training loss", "step", ADVICE)
    event_name: ClassVar[str] = "train"
    order_use: ClassVar[Use] = Use.ORDER
    augment_use: ClassVar[Use] = Use.AUGMENT

    program: TrainProgram
    config: TrainConfig
    samples: Samples
    start: Variables
    context: Context
    streams: PhaseStreams

    @property
    def steps(self) -> int:
        """Number of training steps of the phase."""
        return self.config.steps(self.streams.phase, len(self.samples.indices))

    @property
    def learning_rates(self) -> Float[np.ndarray, " steps"]:
        """Learning rate of each step."""
        return self.config.learning_rates(self.streams.phase, self.steps)

    @property
    def chunk_program(self) -> TrainProgram:
        """Static inputs of a chunk of steps."""
        return self.program

    @property
    def chunk_steps(self) -> int:
        """Number of steps of one compiled call."""
        return self.config.chunk_steps

    def begin(self, loop_state: TrainState | None) -> TrainState:
        """Return `loop_state` on the devices; without one, the state before the first step."""
        return self.program.devices.put_whole(loop_state or init_training(self.program, self.start))

    def batches(self, first: int) -> Iterator[TrainBatches]:
        """Yield the batches of each chunk from step `first` on, a multiple of `chunk_steps`."""
        order = Shuffled(self.samples.indices, self.streams(self.order_use), self.config.batch_size, self.steps)
        rates = self.learning_rates
        chunks = self.samples.chunks(order, first, self.chunk_steps, self._augment_key)
        for start, (images, labels) in zip(range(first, self.steps, self.chunk_steps), chunks, strict=True):
            steps = np.arange(start, start + self.chunk_steps)
            rate = rates[np.minimum(steps, self.steps - 1)]
            yield TrainBatches(images, labels, rate, steps.astype(np.int32), steps < self.steps)

    def run(self, state: TrainState, batches: TrainBatches) -> tuple[TrainState, TrainLog]:
        """Return the state after a chunk, and each step's log."""
        args = (self.chunk_program, state, self._context, batches, self._augment_key)
        return lockstep.vmapped_call(train_chunk, *args, batched=_BATCHED)

    def progress(self, done: int, log: dict[str, np.ndarray]) -> dict[str, int | float]:
        """Return the epoch, and the chunk's mean loss and training accuracy in percent."""
        values = {"loss": float(log["loss"].mean()), "accuracy": 100 * float(log["accuracy"].mean())}
        return {"epoch": self._epoch(done), **values}

    def event(self, first: int, done: int, progress: dict[str, int | float]) -> tuple[str, dict[str, Any]] | None:
        """Return the event `event_name` once an epoch: after the chunk in which the epoch begins."""
        return (self.event_name, progress) if self._epoch(done) > self._epoch(first) else None

    def _epoch(self, done: int) -> int:
        """Return the epoch, counted from 1, of the last of `done` steps; 0 before the first."""
        return -(-done // self.config.epoch_steps(len(self.samples.indices)))

    @cached_property
    def _augment_key(self) -> Key:
        return self.streams(self.augment_use).jax_key()

    @cached_property
    def _context(self) -> Context:
        return self.program.devices.put_whole(self.context)


@partial(jax.jit, static_argnames="program")
def init_training(program: TrainProgram, variables: Variables) -> TrainState:
    """Return the state before the first step."""
    return TrainState(variables, program.optimizer().init(variables.params))
