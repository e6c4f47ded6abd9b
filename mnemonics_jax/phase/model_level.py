"""The model level of a phase: train Θ_i on the new data and the exemplars, then correct its logits."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from mnemonics_jax.data.image_store import Samples
from mnemonics_jax.methods import Classes, LogitCorrection, Method
from mnemonics_jax.nets.classifier import Variables
from mnemonics_jax.phase.callbacks import Callbacks
from mnemonics_jax.phase.chunk_loop import run_chunks
from mnemonics_jax.phase.evaluation import class_means, embed
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState, ResumePoint
from mnemonics_jax.phase.training import ADVICE, Context, TrainingLoop
from mnemonics_jax.runtime.errors import NumbersError
from mnemonics_jax.runtime.finite import all_finite
from mnemonics_jax.runtime.random_streams import Use, generator, phase_streams


class Split(NamedTuple):
    """Indices of a phase's training samples, and of those held out to fit the logits' correction."""

    train: Int[np.ndarray, " sample"]
    held: Int[np.ndarray, " sample"]


def train_model(setup: Setup, resume_point: ResumePoint, callbacks: Callbacks) -> PhaseState:
    """Return the state with Θ_i in place of Θ_{i-1}, which becomes `previous`, and with its correction.

    Raises:
        NumbersError: when a loss, Θ_i or the correction is not finite.
    """
    state, phase = resume_point.state, int(resume_point.state.phase)
    split = split_samples(setup, state)
    samples = setup.samples(state.memory, split.train)
    # After an interruption the start is not needed: the loop state of the resume point has replaced it.
    start = state.variables if resume_point.done else _start(setup, state, samples)
    context = Context(state.variables, setup.stream.masks(phase), state.correction)
    streams = phase_streams(state.key, phase)
    loop = TrainingLoop(setup.train_program, setup.config.train, samples, start, context, streams)
    variables = jax.tree.map(np.asarray, run_chunks(loop, resume_point, callbacks).variables)
    # No loss is computed after the last update, so that nothing else would show a bad one.
    if not all_finite(variables):
        raise NumbersError(f"the model is not finite after step {loop.steps - 1} of {loop.steps}", ADVICE)
    correction = _correct(setup, state, variables, replace(samples, indices=split.held))
    return state._replace(variables=variables, previous=state.variables, correction=correction)


def split_samples(setup: Setup, state: PhaseState) -> Split:
    """Return the phase's samples, split for training and for the logit correction.

    In phases ≥ 1 a method may hold out a share of each class's exemplars, and as many of each new class's images.
    """
    method, stream, phase = setup.config.method, setup.stream, int(state.phase)
    fresh = stream.train_indices(phase, joint=method.sees_all_data)
    kept = setup.first_slot + state.memory.slots()
    everything = np.concatenate([fresh, kept])
    amount = _held_amount(method, int(state.memory.counts.max()))
    if amount == 0 or phase == 0:
        return Split(everything, everything[:0])
    labels = setup.sample_labels(state.memory)
    rng = generator(state.key, phase, Use.HOLDOUT)
    held = np.concatenate(
        [
            rng.permutation(group[labels[group] == c])[:amount]
            for group in (kept, fresh)
            for c in np.unique(labels[group])
        ]
    )
    # The single exemplar of a class serves both purposes: without it the class would be missing in training.
    single = kept[state.memory.counts[labels[kept]] == 1]
    return Split(np.union1d(np.setdiff1d(everything, held), single), held)


def _held_amount(method: Method, exemplars: int) -> int:
    return max(1, round(method.holdout * exemplars)) if method.holdout and exemplars else 0


def _start(setup: Setup, state: PhaseState, samples: Samples) -> Variables:
    """Return Θ_{i-1}, its head prepared for the new classes where the method does so."""
    method, stream, phase = setup.config.method, setup.stream, int(state.phase)
    if not method.imprints:
        return state.variables
    fresh = stream.train_indices(phase)
    features = embed(setup.net, setup.augmentation, state.variables, samples.store, fresh).features
    means = class_means(features, stream.train_labels[fresh], stream.num_classes)
    return state.variables._replace(params=_init_head(method, state.variables.params, means, stream.masks(phase)))


@partial(jax.jit, static_argnums=0)
def _init_head(
    method: Method, params: dict, means: Float[Array | np.ndarray, "classes feature"], classes: Classes
) -> dict:
    return method.init_head(params, means, classes)


def _correct(setup: Setup, state: PhaseState, variables: Variables, held: Samples) -> LogitCorrection:
    """Return the correction that the method fits on the held-out samples; without any, the one before."""
    if not len(held.indices):
        return state.correction
    # Padded to the most that any phase holds out, so that every phase runs the same program.
    method, stream = setup.config.method, setup.stream
    room, amount = stream.num_classes * _held_amount(method, state.memory.images.shape[1]), len(held.indices)
    logits = np.zeros((room, stream.num_classes), np.float32)
    labels, weights = np.zeros(room, np.int32), np.zeros(room, np.float32)
    logits[:amount] = embed(setup.net, setup.augmentation, variables, held.store, held.indices).logits
    labels[:amount], weights[:amount] = held.labels[held.indices], 1
    classes = stream.masks(int(state.phase))
    correction = jax.tree.map(np.asarray, _fit_correction(method, logits, labels, weights, classes, state.correction))
    if not all_finite(correction):
        raise NumbersError("calibration: the logits' correction is not finite after its last step", ADVICE)
    return correction


@partial(jax.jit, static_argnums=0)
def _fit_correction(
    method: Method,
    logits: Float[Array | np.ndarray, "sample classes"],
    labels: Int[Array | np.ndarray, " sample"],
    weights: Float[Array | np.ndarray, " sample"],
    classes: Classes,
    correction: LogitCorrection,
) -> LogitCorrection:
    return method.fit_correction(logits, labels, weights, classes, correction)
