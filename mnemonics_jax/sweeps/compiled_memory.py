"""The memory of the compiled program of exemplar learning, found without running it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnemonics_jax.exemplars import memory as memories
from mnemonics_jax.exemplars.outer import learn_chunk
from mnemonics_jax.exemplars.problems import group_problems, new_problem
from mnemonics_jax.phase.exemplar_level import learning_loop
from mnemonics_jax.phase.setup import Setup, make_setup
from mnemonics_jax.phase.state import ResumePoint, Stage, initial_state
from mnemonics_jax.runs.folder import with_recorded
from mnemonics_jax.runtime.files import write_json
from mnemonics_jax.sweeps.job import Job

MEMORY_FILE = "outer_step.json"
"""Name of the file in a run's folder with the memory of its compiled outer step."""


def measure(job: Job, folder: Path) -> None:
    """Write the memory of the compiled outer step into the folder of a run, once, and only for seed 0."""
    if job.config.seed == 0 and job.config.exemplars.name == "mnemonics" and not (folder / MEMORY_FILE).exists():
        write_json(
            folder / MEMORY_FILE, {"temporary_bytes": outer_step_bytes(make_setup(with_recorded(folder, job.config)))}
        )


def outer_step_bytes(setup: Setup) -> int | None:
    """Return the temporary memory, in bytes, of the compiled chunk of outer steps of a run that learns exemplars.

    This is the memory beside the program's arguments and results; None where the backend does not report it.
    """
    analysis = learn_chunk.lower(*chunk_arguments(setup)).compile().memory_analysis()
    return getattr(analysis, "temp_size_in_bytes", None)


def chunk_arguments(setup: Setup) -> tuple[Any, ...]:
    """Return the arguments of `learn_chunk` in phase 0 of a run that learns exemplars, with shapes for arrays.

    They come from the same loop as in a run, with the first images of each class as exemplars.
    """
    stream, strategy, state = setup.stream, setup.config.exemplars, initial_state(setup)
    budget, new = strategy.budget(stream.seen(0)), stream.new_classes(0)
    first = {c: stream.dataset.train_images[np.flatnonzero(stream.train_labels == c)[:budget]] for c in new}
    state = state._replace(memory=memories.add_classes(state.memory, first))
    problem = new_problem(strategy, state.memory, new)
    if setup.group_classes is not None:
        problem = group_problems(strategy, state.memory, new, setup.group_classes)[0]
    loop = learning_loop(setup, ResumePoint(state, Stage.EXEMPLARS), problem, stream.train_indices(0))
    start, batches = loop.begin(None), next(loop.batches(0))
    arrays = (loop.outer_problem, start.meta, start.opt_state, batches, loop.key)
    return loop.program, *jax.tree.map(_shape, arrays)


def _shape(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=getattr(array, "sharding", None))
