"""The exemplar level of a phase: learn exemplars from real images, adjust the old ones, and fit Θ_i^E to all."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from mnemonics_jax.exemplars.inner import InnerProblem, Models, fit_exemplar_model
from mnemonics_jax.exemplars.inner_batches import draw_batches
from mnemonics_jax.exemplars.learning import LearningLoop, LearningStart
from mnemonics_jax.exemplars.problems import BilevelProblem, group_problems, half_problems, new_problem, select, update
from mnemonics_jax.nets.classifier import Variables
from mnemonics_jax.phase.callbacks import Callbacks
from mnemonics_jax.phase.chunk_loop import run_chunks
from mnemonics_jax.phase.exemplar_gate import judging_images, pass_gate
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState, ResumePoint, Stage
from mnemonics_jax.runtime import lockstep
from mnemonics_jax.runtime.errors import NumbersError
from mnemonics_jax.runtime.finite import all_finite
from mnemonics_jax.runtime.random_streams import Use, phase_streams, stream_key


class _Part(NamedTuple):
    """One bilevel problem of a phase: its stage, its number in that stage, and the samples of its outer loss."""

    stage: Stage
    part: int
    problem: BilevelProblem
    outer: Int[np.ndarray, " sample"]


def improve_exemplars(setup: Setup, resume_point: ResumePoint, callbacks: Callbacks) -> PhaseState:
    """Return the state with the new exemplars learned and the old ones adjusted, where the exemplar kind does so.

    Problems that were finished before the resume point are left out.

    Raises:
        NumbersError: when an outer loss or a meta-gradient is not finite.
    """
    state = resume_point.state
    if not setup.config.exemplars.learns:
        return state
    reached = (resume_point.stage, resume_point.part)
    for part in _parts(setup, state):
        place = (part.stage, part.part)
        if place < reached:
            continue
        begin = resume_point if place == reached else ResumePoint(state, part.stage, part=part.part)
        state = learn_exemplars(setup, begin, part.problem, part.outer, callbacks)
    return state


def _parts(setup: Setup, state: PhaseState) -> Iterator[_Part]:
    """Yield the bilevel problems of a phase in their order; none of them depends on any pixel."""
    strategy, stream, phase = setup.config.exemplars, setup.stream, int(state.phase)
    new, size = stream.new_classes(phase), setup.group_classes
    labels = setup.sample_labels(state.memory)
    slots = setup.first_slot + state.memory.slots()
    fresh = np.setdiff1d(stream.train_indices(phase), judging_images(setup, state))
    data = np.concatenate([fresh, slots[labels[slots] < new.start]])
    problems = [new_problem(strategy, state.memory, new)]
    if size is not None:
        problems = group_problems(strategy, state.memory, new, size)
    for part, problem in enumerate(problems):
        yield _Part(Stage.EXEMPLARS, part, problem, data[problem.seen[labels[data]]])
    if strategy.adjust:
        halves = half_problems(strategy, state.memory, range(new.start), size)
        for stage, group in zip((Stage.ADJUSTING_A, Stage.ADJUSTING_B), halves, strict=False):
            for part, (problem, other) in enumerate(group):
                yield _Part(stage, part, problem, setup.first_slot + np.flatnonzero(other))


def learn_exemplars(
    setup: Setup,
    resume_point: ResumePoint,
    problem: BilevelProblem,
    outer: Int[np.ndarray, " sample"],
    callbacks: Callbacks,
) -> PhaseState:
    """Return the state with the exemplars of one bilevel problem learned.

    An event of the stage's name has the outer loss before and after; a warning tells when it did not fall.

    Args:
        setup: what the phases share.
        resume_point: where to start.
        problem: the bilevel problem.
        outer: indices of the samples of its outer loss.
        callbacks: receives progress, events and resume points.

    Raises:
        NumbersError: when an outer loss or a meta-gradient is not finite.
    """
    state, title, phase = resume_point.state, resume_point.stage.title, int(resume_point.state.phase)
    loop = learning_loop(setup, resume_point, problem, outer)
    try:
        before = loop.probe(loop.start.memory, state.log_rates)
        learned = loop.finish(run_chunks(loop, resume_point, callbacks))
        after = loop.probe(learned.memory, learned.log_rates)
    except NumbersError as error:
        raise NumbersError(f"{title}: {error}", error.advice) from error
    callbacks.event(title, phase, outer_loss_before=before, outer_loss_after=after, **learned.summary)
    if problem.steps and not after < before:
        callbacks.warn(
            f"phase {phase}, {title}: learning did not lower the outer loss ({before:.4f} before, {after:.4f} after): "
            "try another --exemplars.inner-init, more --exemplars.outer-steps or a smaller "
            "--exemplars.outer-learning-rate"
        )
    memory = setup.as_stored(state.memory, update(state.memory, problem, learned.memory))
    # Adjusting has no real data: nothing can judge it, and the inner step sizes stay those of the stage before it.
    if resume_point.stage is not Stage.EXEMPLARS:
        return state._replace(memory=memory)
    if setup.config.exemplars.gate:
        memory = pass_gate(setup, state, memory, resume_point.part, callbacks)
        if np.array_equal(memory.images, state.memory.images):
            return state  # step sizes learned with other exemplars do not belong to these
    return state._replace(memory=memory, log_rates=learned.log_rates)


def learning_loop(
    setup: Setup, resume_point: ResumePoint, problem: BilevelProblem, outer: Int[np.ndarray, " sample"]
) -> LearningLoop:
    """Return the outer loop of a bilevel problem, for `run_chunks`."""
    state = resume_point.state
    # A later group of classes is learned beside what the groups before it have learned.
    start = LearningStart(models_of(state), select(state.memory, problem), state.log_rates)
    streams = phase_streams(state.key, int(state.phase), _index(setup, resume_point))
    samples = setup.samples(state.memory, outer)
    return LearningLoop(setup.inner_program, resume_point.stage.title, problem, start, samples, streams)


def _index(setup: Setup, resume_point: ResumePoint) -> int:
    """Return the number of a bilevel problem among all of its phase, which tells its random streams apart."""
    new, size = setup.stream.new_classes(int(resume_point.state.phase)), setup.group_classes
    learned, adjusted = (1, 1) if size is None else (-(-len(new) // size), -(-new.start // size))
    first = {Stage.EXEMPLARS: 0, Stage.ADJUSTING_A: learned, Stage.ADJUSTING_B: learned + adjusted}
    return first[resume_point.stage] + resume_point.part


def models_of(state: PhaseState) -> Models:
    """Return the models that an inner loop of the phase can start from."""
    return Models(state.variables, state.previous, frozen=np.asarray(state.phase > 0))


def fit_to_exemplars(setup: Setup, state: PhaseState) -> Variables:
    """Return Θ_i^E: Θ_i fitted to the memory by the inner loop.

    Raises:
        NumbersError: when a parameter of it is not finite.
    """
    strategy, phase = setup.config.exemplars, int(state.phase)
    images = state.memory.images.reshape(-1, *state.memory.images.shape[2:])
    streams = phase_streams(state.key, phase)
    problem = InnerProblem(models_of(state), state.memory.labels(), setup.stream.masks(phase).seen)
    rates: Float[np.ndarray, " steps"] = np.exp(state.log_rates)
    batches = draw_batches(strategy, state.memory.used, streams(Use.FIT))
    args = (setup.inner_program, problem, images, rates, batches, stream_key(state.key, phase, Use.FIT))
    fitted = jax.tree.map(np.asarray, lockstep.vmapped_call(fit_exemplar_model, *args))
    if not all_finite(fitted):
        what = f"fitting the exemplars: the model is not finite after inner step {strategy.unroll_length}"
        raise NumbersError(what, "try a smaller --exemplars.inner-learning-rate")
    return fitted
