"""`PhaseState`, which one phase passes to the next, and `ResumePoint`, where a phase can be resumed."""

from enum import IntEnum
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int32, UInt32

from mnemonics_jax.exemplars import memory as memories
from mnemonics_jax.exemplars.learning import LearnState, init_learning
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.methods import LogitCorrection
from mnemonics_jax.nets.classifier import Classifier, Variables, init
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.training import TrainState, init_training
from mnemonics_jax.runtime.random_streams import Key, Use, root_key, stream_key


class PhaseState(NamedTuple):
    """All that one phase passes to the next, in host memory; a checkpoint between phases has exactly this.

    `phase` is the phase to run next; `variables` and `previous` are the last two models trained (at first, both the
    initial one); `log_rates` are the logarithms of the inner loop's step sizes. `num_correct[i, g]` and
    `num_correct_exemplar_model[i, g]` count the test images of phase g's classes that Θ_i and Θ_i^E classify
    correctly; −1 where not measured.
    """

    phase: Int32[np.ndarray, ""]
    variables: Variables
    previous: Variables
    memory: Memory
    log_rates: Float[np.ndarray, " steps"]
    correction: LogitCorrection
    key: Key
    num_correct: Int32[np.ndarray, "phases groups"]
    num_correct_exemplar_model: Int32[np.ndarray, "phases groups"]


def initial_state(setup: Setup) -> PhaseState:
    """Return the state before phase 0."""
    stream, settings = setup.stream, setup.config.exemplars
    classes, phases, shape = stream.num_classes, stream.num_phases, stream.dataset.image_shape
    key = root_key(setup.config.seed)
    variables = jax.tree.map(np.asarray, _init(setup.net, shape, stream_key(key, 0, Use.INIT)))
    capacity = settings.capacity(stream.sizes[0]) if setup.config.method.uses_memory else 1
    unmeasured = np.full((phases, phases), -1, np.int32)
    return PhaseState(
        phase=np.asarray(0, np.int32),
        variables=variables,
        previous=variables,
        memory=memories.empty(classes, capacity, shape, settings.stored_dtype),
        log_rates=np.full(max(settings.unroll_length, 1), np.log(settings.inner_learning_rate), np.float32),
        correction=LogitCorrection(np.ones(classes, np.float32), np.zeros(classes, np.float32)),
        key=key,
        num_correct=unmeasured,
        num_correct_exemplar_model=unmeasured,
    )


@partial(jax.jit, static_argnums=(0, 1))
def _init(net: Classifier, image_shape: tuple[int, int, int], key: UInt32[Array | np.ndarray, " 2"]) -> Variables:
    return init(net, jax.random.wrap_key_data(key), image_shape)


class Stage(IntEnum):
    """The stages of a phase that take many steps, in their order."""

    TRAINING = 0
    EXEMPLARS = 1
    ADJUSTING_A = 2
    ADJUSTING_B = 3
    BALANCED = 4

    @property
    def title(self) -> str:
        """Name of the stage in progress lines, logs and messages."""
        return "adjusting" if self in (Stage.ADJUSTING_A, Stage.ADJUSTING_B) else self.name.lower()


class ResumePoint(NamedTuple):
    """Where a phase can be resumed: in part `part` of a stage, after `done` of its steps.

    `state` is the state at the start of the part, `loop_state` that of its loop after `done` steps, None for none.
    A stage that learns exemplars in groups of classes has a part for each group; every other stage has one part.

    All else in a phase (the logit correction, the choice of real images, evaluation, the order of the data, every
    random stream) is a function of these.
    """

    state: PhaseState
    stage: Stage = Stage.TRAINING
    done: int = 0
    loop_state: TrainState | LearnState | None = None
    part: int = 0

    @property
    def name(self) -> str:
        """Name for files; names sort in the order of the resume points."""
        phase = int(self.state.phase)
        if not self.done:
            return f"{phase:04}-{self.stage:d}-begin"
        return f"{phase:04}-{self.stage:d}-{self.stage.title}-{self.part:04}-{self.done:08}"

    def describe(self) -> str:
        """Return where the resume point is, in words that follow "going on"."""
        phase = int(self.state.phase)
        if self.done:
            group = f" group {self.part}" if self.part else ""
            return f"from phase {phase}, {self.stage.title}{group}, step {self.done}"
        return f"after phase {phase - 1}"


def loop_state_like(setup: Setup, state: PhaseState, stage: Stage, done: int) -> TrainState | LearnState | None:
    """Return the structure, shapes and dtypes of `ResumePoint.loop_state`; `state` is any of the run's states."""
    if not done:
        return None
    if stage in (Stage.TRAINING, Stage.BALANCED):
        return jax.eval_shape(partial(init_training, setup.train_program), state.variables)
    settings: Mnemonics = setup.config.exemplars
    steps = settings.outer_steps if stage is Stage.EXEMPLARS else settings.adjust_steps
    classes = setup.group_classes or len(state.memory.counts)
    part = memories.empty(classes, state.memory.images.shape[1], state.memory.images.shape[2:], settings.stored_dtype)
    return jax.eval_shape(lambda: init_learning(settings, part, state.log_rates, steps))
