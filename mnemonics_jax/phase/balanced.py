"""Balanced fine-tuning of Θ_i: the last step of training in a phase, on the exemplars of all classes seen."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float

from mnemonics_jax.methods import LossInputs
from mnemonics_jax.methods.bounds import Finetune
from mnemonics_jax.nets.losses import cross_entropy
from mnemonics_jax.phase.callbacks import Callbacks
from mnemonics_jax.phase.chunk_loop import run_chunks
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState, ResumePoint
from mnemonics_jax.phase.training import Context, TrainingLoop, TrainProgram
from mnemonics_jax.runtime.errors import NotFinite, NumbersError
from mnemonics_jax.runtime.finite import all_finite
from mnemonics_jax.runtime.random_streams import Use, phase_streams

_ADVICE = "try a smaller --train.balanced-learning-rate"


@dataclass(frozen=True)
class _CorrectedFinetune(Finetune):
    """Plain cross-entropy of the logits as the model predicts by them: with BiC's correction, which stays as it is.

    Tuning under the correction is better than without it and dropping it (experiments/RESULTS-later-phases.md).
    """

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """Return the cross-entropy of the corrected logits, a mean over the batch."""
        logits = inputs.correction.correct(inputs.outputs.logits)
        return cross_entropy(logits, inputs.labels, inputs.classes.seen).mean()


@dataclass(frozen=True)
class BalancedLoop(TrainingLoop):
    """The balanced fine-tuning as a `ChunkProgram`: training with plain cross-entropy in place of the method's loss."""

    not_finite: ClassVar[NotFinite] = NotFinite("the loss of the balanced fine-tuning", "step", _ADVICE)
    event_name: ClassVar[str] = "balanced"
    order_use: ClassVar[Use] = Use.BALANCED_ORDER
    augment_use: ClassVar[Use] = Use.BALANCED_AUGMENT

    @property
    def steps(self) -> int:
        """Number of steps, whatever the number of exemplars."""
        return self.config.balanced_steps

    @property
    def learning_rates(self) -> Float[np.ndarray, " steps"]:
        """Learning rate of each step."""
        return self.config.balanced_learning_rates()

    @property
    def chunk_program(self) -> TrainProgram:
        """Static inputs of a chunk of steps: no distillation, and no class's weights in the head are frozen."""
        return replace(self.program, method=_CorrectedFinetune())


def tune_on_exemplars(setup: Setup, resume_point: ResumePoint, callbacks: Callbacks) -> PhaseState:
    """Return the state with Θ_i tuned on the exemplars of all classes seen; in phase 0 the state as it is.

    Every class has as many exemplars, so the tuning takes back the bias of Θ_i towards the new classes, which have many
    more images in training.

    Raises:
        NumbersError: when a loss or the tuned Θ_i is not finite.
    """
    state, phase = resume_point.state, int(resume_point.state.phase)
    if phase == 0 or not setup.config.train.balanced_steps:
        return state
    samples = setup.samples(state.memory, setup.first_slot + state.memory.slots())
    # Old classes stay marked as old, since weight transfer freezes its kernels where there are any.
    context = Context(state.previous, setup.stream.masks(phase), state.correction)
    streams = phase_streams(state.key, phase)
    loop = BalancedLoop(setup.train_program, setup.config.train, samples, state.variables, context, streams)
    variables = jax.tree.map(np.asarray, run_chunks(loop, resume_point, callbacks).variables)
    if not all_finite(variables):
        raise NumbersError(f"the model is not finite after step {loop.steps} of the balanced fine-tuning", _ADVICE)
    return state._replace(variables=variables)
