"""Sizes that no memory holds, found by calculation before anything is trained."""

from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import NamedTuple

from mnemonics_jax.config.config import Config
from mnemonics_jax.data.class_stream import Stream
from mnemonics_jax.exemplars.device_memory import device_bytes
from mnemonics_jax.runtime.errors import UserError

_FLOAT = 4
_INDEX = 4


class Need(NamedTuple):
    """Flags with their values, and the bytes that they take at the very least."""

    flags: str
    bytes: int


def check_sizes(config: Config, stream: Stream) -> None:
    """Check that every array whose size the settings decide fits the device's memory by itself.

    These are lower bounds, so that nothing is refused that could work: activations, for one, are not counted.

    Raises:
        UserError: for the first settings that cannot fit, with their values, the bytes they take and those there are.
    """
    room = device_bytes()
    needs = [*_training_needs(config, stream)]
    if config.method.uses_memory:
        needs += _exemplar_needs(config, stream)
    for need in needs:
        if need.bytes > room:
            raise UserError(
                f"{need.flags} needs at least {need.bytes / 2**30:,.1f} GiB, and the device has "
                f"{room / 2**30:,.1f} GiB: choose a smaller value"
            )


def _training_needs(config: Config, stream: Stream) -> Iterator[Need]:
    train, net, pixels = config.train, config.net, prod(stream.dataset.image_shape)
    if net.name == "convnet":
        # Kernels of 3 × 3, each with a gradient and a momentum.
        weights = 9 * sum(a * b for a, b in pairwise((stream.dataset.image_shape[2], *net.widths)))
        yield Need(f"--net.widths {' '.join(map(str, net.widths))}", 3 * weights * _FLOAT)
    batch = f"--train.batch-size {train.batch_size}"
    yield Need(batch, train.batch_size * pixels * _FLOAT)
    chunk = train.chunk_steps * train.batch_size
    yield Need(f"--train.chunk-steps {train.chunk_steps} with {batch}", chunk * (pixels + _INDEX))
    images = len(stream.train_labels) // stream.num_phases
    for flag, epochs in (("epochs", train.epochs), ("later-epochs", train.later_epochs or 0)):
        yield Need(f"--train.{flag} {epochs}", epochs * train.epoch_steps(images) * _FLOAT)
    yield Need(f"--train.balanced-steps {train.balanced_steps}", train.balanced_steps * _FLOAT)


def _exemplar_needs(config: Config, stream: Stream) -> Iterator[Need]:
    settings, pixels = config.exemplars, prod(stream.dataset.image_shape)
    unroll = f"--exemplars.unroll-length {settings.unroll_length}"
    yield Need(unroll, settings.unroll_length * _FLOAT)
    if not settings.learns:
        return
    batch, chunk = (f"--exemplars.outer-{name} {getattr(settings, f'outer_{name}')}" for name in ("batch", "chunk"))
    yield Need(batch, settings.outer_batch * pixels * _FLOAT)
    yield Need(f"{chunk} with {batch}", settings.outer_chunk * settings.outer_batch * (pixels + _INDEX))
    drawn = (settings.inner_batch or 0) * settings.unroll_length * settings.outer_chunk
    yield Need(f"--exemplars.inner-batch {settings.inner_batch} with {unroll} and {chunk}", drawn * _INDEX)
    for flag, steps in (("outer-steps", settings.outer_steps), ("adjust-steps", settings.adjust_steps)):
        yield Need(f"--exemplars.{flag} {steps}", steps * _FLOAT)
