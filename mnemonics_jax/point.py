"""A point of a run from which it can go on: where a phase begins, or inside one of its stages."""

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import NamedTuple

import jax

from mnemonics_jax.exemplars import memory as memories
from mnemonics_jax.exemplars.learning import LearnState, begin_learning
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.state import PhaseState, Setup
from mnemonics_jax.training import TrainState, begin_training


class Stage(IntEnum):
    """The stages of a phase that take many steps, in their order."""

    TRAINING = 0
    EXEMPLARS = 1
    ADJUSTING_A = 2
    ADJUSTING_B = 3

    @property
    def title(self) -> str:
        """What the stage is called in progress lines, logs and messages."""
        return "adjusting" if self >= Stage.ADJUSTING_A else self.name.lower()


class Point(NamedTuple):
    """`state` as a part of a stage began with it, and what that has made of it in `done` steps.

    Learning exemplars in groups of classes has a part for each group; every other stage has one.

    All else in a phase (calibration, the choice of real images, evaluation) is a function of these, and so are the
    order of the data and every random stream. `work` is None where nothing is done yet, as at the start of a phase.
    """

    state: PhaseState
    stage: Stage = Stage.TRAINING
    done: int = 0
    work: TrainState | LearnState | None = None
    part: int = 0

    @property
    def name(self) -> str:
        """A name for files; names sort in the order of the points."""
        phase = int(self.state.phase)
        if not self.done:
            return f"{phase:04}-{self.stage:d}-begin"
        return f"{phase:04}-{self.stage:d}-{self.stage.title}-{self.part:04}-{self.done:08}"

    def describe(self) -> str:
        """Where the point is, in words that follow "going on"."""
        phase = int(self.state.phase)
        if self.done:
            group = f" group {self.part}" if self.part else ""
            return f"from phase {phase}, {self.stage.title}{group}, step {self.done}"
        return f"after phase {phase - 1}"


Keep = Callable[[Point], None]
"""Is handed every point that a phase could go on from: after each chunk of a stage."""


def work_like(setup: Setup, state: PhaseState, stage: Stage, done: int) -> TrainState | LearnState | None:
    """Structure, shapes and dtypes of `Point.work`, as `jax.ShapeDtypeStruct`s; `state` is any of the run's states."""
    if not done:
        return None
    if stage is Stage.TRAINING:
        return jax.eval_shape(partial(begin_training, setup.train_program), state.variables)
    settings: Mnemonics = setup.config.exemplars
    steps = settings.outer_steps if stage is Stage.EXEMPLARS else settings.adjust_steps
    classes = setup.group_classes or len(state.memory.counts)
    part = memories.empty(classes, state.memory.images.shape[1], state.memory.images.shape[2:], settings.stored_dtype)
    return jax.eval_shape(lambda: begin_learning(settings, part, state.log_rates, steps))
