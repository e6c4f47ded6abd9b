"""One phase of class-incremental learning as a function: `PhaseState` in, `PhaseState` out."""

import numpy as np

from mnemonics_jax.phase.balanced import tune_on_exemplars
from mnemonics_jax.phase.callbacks import NO_CALLBACKS, Callbacks
from mnemonics_jax.phase.evaluation import evaluate_phase
from mnemonics_jax.phase.exemplar_choice import choose_exemplars
from mnemonics_jax.phase.exemplar_level import fit_to_exemplars, improve_exemplars
from mnemonics_jax.phase.model_level import train_model
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState, ResumePoint, Stage


def run_phase(setup: Setup, resume_from: PhaseState | ResumePoint, callbacks: Callbacks = NO_CALLBACKS) -> PhaseState:
    """Train Θ_i, make the new classes' exemplars, tune Θ_i on all exemplars, fit Θ_i^E to them, and evaluate both.

    Args:
        setup: what the phases of the run share.
        resume_from: the state after the previous phase, or a resume point inside the phase, as `callbacks.checkpoint`
            received it; the result is the same, bit for bit.
        callbacks: receives progress, events and resume points.

    Returns:
        The state to start the next phase from.

    Raises:
        NumbersError: when a loss, a gradient or a model is not finite; it names stage and step.
    """
    resume_point = resume_from if isinstance(resume_from, ResumePoint) else ResumePoint(resume_from)
    uses_memory = setup.config.method.uses_memory
    if resume_point.stage is Stage.TRAINING:
        state = train_model(setup, resume_point, callbacks)
        if uses_memory:
            state = choose_exemplars(setup, state, callbacks)
        resume_point = ResumePoint(state, Stage.EXEMPLARS)
    if uses_memory and resume_point.stage < Stage.BALANCED:
        resume_point = ResumePoint(improve_exemplars(setup, resume_point, callbacks), Stage.BALANCED)
    state = tune_on_exemplars(setup, resume_point, callbacks) if uses_memory else resume_point.state
    state = evaluate_phase(setup, state, fit_to_exemplars(setup, state) if uses_memory else None)
    return state._replace(phase=np.asarray(state.phase + 1, np.int32))
