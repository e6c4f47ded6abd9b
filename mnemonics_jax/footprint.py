"""What the compiled program of exemplar learning takes, without running it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnemonics_jax.exemplars.inner import InnerBatches, Models
from mnemonics_jax.exemplars.learning import LearnState
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.outer import OuterBatches, OuterProblem, learn_chunk
from mnemonics_jax.point import Stage, work_like
from mnemonics_jax.state import Setup, initial_state


def outer_step_bytes(setup: Setup) -> int | None:
    """Temporary memory, in bytes, of the compiled chunk of outer steps of a run that learns exemplars.

    That is what the program needs beside its arguments and results. None where the backend does not tell.
    """
    analysis = learn_chunk.lower(*chunk_arguments(setup)).compile().memory_analysis()
    return getattr(analysis, "temp_size_in_bytes", None)


def chunk_arguments(setup: Setup) -> tuple[Any, ...]:
    """The arguments of `learn_chunk` in a run of `setup`, which learns exemplars, as shapes."""
    settings: Mnemonics = setup.config.exemplars
    state, devices = initial_state(setup), setup.devices
    like: LearnState = work_like(setup, state, Stage.EXEMPLARS, 1)

    def whole(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=devices.whole)

    learnable, opt_state = jax.tree.map(lambda leaf: whole(leaf.shape, leaf.dtype), (like.learnable, like.opt_state))
    variables = jax.tree.map(lambda leaf: whole(leaf.shape, leaf.dtype), state.variables)
    slots, classes = len(learnable.pixels), setup.stream.num_classes
    problem = OuterProblem(
        models=Models(variables, variables, whole((), jnp.bool_)),
        labels=whole((slots,), jnp.int32),
        learned=whole((slots,), jnp.bool_),
        seen=whole((classes,), jnp.bool_),
        low=learnable.pixels,
        high=learnable.pixels,
    )
    steps, batch = settings.outer_chunk, settings.outer_batch
    unroll, inner = settings.unroll_length, settings.inner_batch or slots
    shape = (steps, batch, *setup.stream.dataset.image_shape)
    batches = OuterBatches(
        images=jax.ShapeDtypeStruct(shape, state.memory.images.dtype, sharding=devices.cut(1)),
        labels=jax.ShapeDtypeStruct((steps, batch), jnp.int32),
        inner=InnerBatches(
            slots=jax.ShapeDtypeStruct((steps, unroll, inner), jnp.int32),
            weights=jax.ShapeDtypeStruct((steps, unroll, inner), jnp.float32),
            usable=jax.ShapeDtypeStruct((steps, slots), jnp.float32),
        ),
        learning_rate=jax.ShapeDtypeStruct((steps,), jnp.float32),
        index=jax.ShapeDtypeStruct((steps,), jnp.int32),
        active=jax.ShapeDtypeStruct((steps,), jnp.bool_),
    )
    return setup.inner_program, problem, learnable, opt_state, batches, np.zeros(2, np.uint32)
