"""One phase of class-incremental learning as a function: `PhaseState` in, `PhaseState` out."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from mnemonics_jax import together
from mnemonics_jax.errors import NumbersError
from mnemonics_jax.exemplars import memory as memories
from mnemonics_jax.exemplars.inner import Models, draw_batches, fit_model
from mnemonics_jax.exemplars.learning import Samples, Task, group_tasks, half_tasks, new_task, part_of, put_back, solve
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.inference import class_means, embed, predict
from mnemonics_jax.methods import Bias, Classes, Method
from mnemonics_jax.metrics import right_by_group
from mnemonics_jax.nets.classifier import Variables
from mnemonics_jax.point import Keep, Point, Stage
from mnemonics_jax.rng import Use, generator, random_stream, stream_key
from mnemonics_jax.state import PhaseState, Setup
from mnemonics_jax.training import ADVICE, Context, Progress, all_finite, epoch_at, train
from mnemonics_jax.watch import Watch


class _Samples(NamedTuple):
    """Indices of a phase's training samples, and of those held out for calibration."""

    train: Int[np.ndarray, "sample"]
    held: Int[np.ndarray, "sample"]


def run_phase(setup: Setup, point: PhaseState | Point, watch: Watch, keep: Keep = lambda point: None) -> PhaseState:
    """Trains Θ_i, makes the new classes' exemplars, fits Θ_i^E to all exemplars and evaluates both models.

    `point` is the state that the phase before ended with, or a point inside the phase that `keep` was handed: the
    result is the same bit for bit. Raises `NumbersError` when a loss or gradient is not finite.
    """
    point = point if isinstance(point, Point) else Point(point)
    state = point.state
    if point.stage is Stage.TRAINING:
        setup.train_store.hold(state.memory.images)
        samples = _split(setup, state)
        variables = _train_model(setup, point, samples.train, watch, keep)
        bias = _calibrate(setup, state, variables, samples.held)
        state = state._replace(variables=variables, previous=state.variables, bias=bias)
        if setup.config.method.uses_memory:
            state = state._replace(memory=_choose(setup, state, watch))
        point = Point(state, Stage.EXEMPLARS)
    if setup.config.method.uses_memory:
        state = _learn(setup, point, watch, keep)
        setup.train_store.hold(state.memory.images)
    phase = int(state.phase)
    state = state._replace(right=_with_row(state.right, phase, _evaluate(setup, state, state.variables, state.bias)))
    if setup.config.method.uses_memory:
        # Θ^E has seen every class equally, so it is judged without the correction of a bias towards new classes.
        no_bias = Bias(np.ones_like(state.bias.scale), np.zeros_like(state.bias.shift))
        right = _evaluate(setup, state, _exemplar_model(setup, state), no_bias)
        state = state._replace(right_exemplar_model=_with_row(state.right_exemplar_model, phase, right))
    return state._replace(phase=np.asarray(phase + 1, np.int32))


def _split(setup: Setup, state: PhaseState) -> _Samples:
    """The phase's samples. Held out in phases ≥ 1: a share of each class's exemplars, and as many new images."""
    method, stream, phase = setup.config.method, setup.stream, int(state.phase)
    fresh = stream.train_indices(phase, joint=method.sees_all_data)
    kept = setup.first_slot + state.memory.slots()
    everything = np.concatenate([fresh, kept])
    amount = _held_amount(method, int(state.memory.counts.max()))
    if amount == 0 or phase == 0:
        return _Samples(everything, everything[:0])
    labels = setup.sample_labels(state.memory)
    rng = generator(state.key, phase, Use.HOLDOUT)
    held = np.concatenate(
        [
            rng.permutation(group[labels[group] == c])[:amount]
            for group in (kept, fresh)
            for c in np.unique(labels[group])
        ]
    )
    # Where a class has a single exemplar it serves both ends: without it the class would vanish from training.
    single = kept[state.memory.counts[labels[kept]] == 1]
    return _Samples(np.union1d(np.setdiff1d(everything, held), single), held)


def _held_amount(method: Method, exemplars: int) -> int:
    return max(1, round(method.holdout * exemplars)) if method.holdout and exemplars else 0


def _train_model(setup: Setup, point: Point, indices: Int[np.ndarray, "sample"], watch: Watch, keep: Keep) -> Variables:
    config, stream, state = setup.config, setup.stream, point.state
    phase = int(state.phase)
    classes = stream.masks(phase)
    start = state.variables
    if config.method.imprints and not point.done:
        fresh = stream.train_indices(phase)
        features = embed(setup.net, setup.augmentation, start, setup.train_store, fresh).features
        means = class_means(features, stream.train_labels[fresh], stream.num_classes)
        start = start._replace(params=_prepare(config.method, start.params, means, classes))
    epochs_logged = epoch_at(point.done, config.train.epoch_steps(len(indices)))

    def report(progress: Progress) -> None:
        nonlocal epochs_logged
        values = {"epoch": progress.epoch, "loss": progress.loss, "accuracy": progress.accuracy}
        watch.advance(progress.done, **values)
        if progress.epoch > epochs_logged:
            epochs_logged = progress.epoch
            watch.event("train", phase, step=progress.done, **values)

    watch.stage(phase, Stage.TRAINING.title, config.train.steps(phase, len(indices)))
    trained = train(
        setup.train_program,
        config.train,
        start,
        Context(state.variables, classes, state.bias),
        setup.train_store,
        indices,
        setup.sample_labels(state.memory),
        state.key,
        phase,
        report,
        begun=_begun(point),
        keep=lambda done, work: keep(point._replace(done=done, work=work)),
    )
    return jax.tree.map(np.asarray, trained)


def _begun(point: Point) -> tuple[int, Any] | None:
    return (point.done, point.work) if point.done else None


@partial(jax.jit, static_argnums=0)
def _prepare(
    method: Method, params: dict, means: Float[Array | np.ndarray, "classes feature"], classes: Classes
) -> dict:
    return method.prepare(params, means, classes)


@partial(jax.jit, static_argnums=0)
def _fit_bias(
    method: Method,
    logits: Float[Array | np.ndarray, "sample classes"],
    labels: Int[Array | np.ndarray, "sample"],
    weights: Float[Array | np.ndarray, "sample"],
    classes: Classes,
    bias: Bias,
) -> Bias:
    return method.calibrate(logits, labels, weights, classes, bias)


def _calibrate(setup: Setup, state: PhaseState, variables: Variables, held: Int[np.ndarray, "sample"]) -> Bias:
    if not len(held):
        return state.bias
    # Padded to the most that any phase holds out, so that every phase runs the same program.
    method, stream = setup.config.method, setup.stream
    room = stream.num_classes * _held_amount(method, state.memory.images.shape[1])
    logits = np.zeros((room, stream.num_classes), np.float32)
    labels, weights = np.zeros(room, np.int32), np.zeros(room, np.float32)
    logits[: len(held)] = embed(setup.net, setup.augmentation, variables, setup.train_store, held).logits
    labels[: len(held)], weights[: len(held)] = setup.sample_labels(state.memory)[held], 1
    classes = stream.masks(int(state.phase))
    bias = jax.tree.map(np.asarray, _fit_bias(method, logits, labels, weights, classes, state.bias))
    if not all_finite(bias):
        raise NumbersError("calibration: the bias correction is not finite after its last step", ADVICE)
    return bias


def _choose(setup: Setup, state: PhaseState, watch: Watch) -> Memory:
    """The memory cut to its budget, with real images of the new classes; which ones is told."""
    stream, settings, phase = setup.stream, setup.config.exemplars, int(state.phase)
    budget = settings.budget(stream.seen(phase))
    memory = memories.shrink(state.memory, budget)
    fresh = stream.train_indices(phase)
    labels = stream.train_labels[fresh]
    features = np.zeros((len(fresh), 0), np.float32)
    if settings.needs_features:
        features = embed(setup.net, setup.augmentation, state.variables, setup.train_store, fresh).features
    groups = [np.flatnonzero(labels == c) for c in stream.new_classes(phase)]
    rng = generator(state.key, phase, Use.CHOOSE)
    room = int(stream.dataset.train_counts().max())
    picks = settings.choose([features[group] for group in groups], budget, room, rng)
    chosen = [fresh[group[pick]] for group, pick in zip(groups, picks, strict=True)]
    # Learning replaces these images: which they were is in the log alone.
    watch.event("chosen", phase, images=[index.tolist() for index in chosen])
    images = {c: stream.dataset.train_images[i] for c, i in zip(stream.new_classes(phase), chosen, strict=True)}
    return memories.add_classes(memory, images)


def _learn(setup: Setup, point: Point, watch: Watch, keep: Keep) -> PhaseState:
    """The state with the new classes' exemplars learned, then the old ones adjusted, where the kind does so."""
    state = point.state
    if not isinstance(setup.config.exemplars, Mnemonics):
        return state
    for stage, part, task, data in _tasks(setup, state):
        if (stage, part) < (point.stage, point.part):
            continue
        begin = point if (stage, part) == (point.stage, point.part) else Point(state, stage, part=part)
        memory, log_rates = _solve(setup, begin, task, data, watch, keep)
        # The step sizes stay those that were learned on real data.
        log_rates = log_rates if stage is Stage.EXEMPLARS else state.log_rates
        state = state._replace(memory=put_back(state.memory, task, memory), log_rates=log_rates)
    return state


def _tasks(setup: Setup, state: PhaseState) -> list[tuple[Stage, int, Task, Int[np.ndarray, "sample"]]]:
    """A phase's bilevel problems in their order: (stage, part of it, problem, samples of its outer loss)."""
    settings, stream, phase = setup.config.exemplars, setup.stream, int(state.phase)
    new = stream.new_classes(phase)
    labels = setup.sample_labels(state.memory)
    slots = setup.first_slot + state.memory.slots()
    data = np.concatenate([stream.train_indices(phase), slots[labels[slots] < new.start]])
    if setup.group_classes is not None:
        groups = group_tasks(settings, state.memory, new, setup.group_classes)
        return [(Stage.EXEMPLARS, i, task, data[task.seen[labels[data]]]) for i, task in enumerate(groups)]
    tasks = [(Stage.EXEMPLARS, 0, new_task(settings, state.memory, new), data)]
    if settings.adjust:
        halves = half_tasks(settings, state.memory, range(new.start))
        for stage, (task, other) in zip((Stage.ADJUSTING_A, Stage.ADJUSTING_B), halves, strict=False):
            tasks.append((stage, 0, task, setup.first_slot + np.flatnonzero(other)))
    return tasks


def _solve(
    setup: Setup, point: Point, task: Task, data: Int[np.ndarray, "sample"], watch: Watch, keep: Keep
) -> tuple[Memory, Float[np.ndarray, "steps"]]:
    """The task's part of the memory and logarithms of the inner step sizes, solved, and what that did told."""
    state, name = point.state, point.stage.title
    setup.train_store.hold(state.memory.images)
    phase, problem = int(state.phase), point.stage - Stage.EXEMPLARS + point.part
    watch.stage(phase, name, task.steps)

    def report(done: int, loss: float) -> None:
        watch.advance(done, loss=loss)
        watch.event("outer", phase, step=done, problem=problem, stage=name, loss=loss)

    try:
        memory, log_rates, learned = solve(
            setup.inner_program,
            _models(state),
            # A later group sees what the earlier ones have learned.
            part_of(state.memory, task),
            state.log_rates,
            task,
            Samples(setup.train_store, data, setup.sample_labels(state.memory)),
            state.key,
            phase,
            problem,
            report,
            begun=_begun(point),
            keep=lambda done, work: keep(point._replace(done=done, work=work)),
        )
    except NumbersError as error:
        raise NumbersError(f"{name}: {error}", error.advice) from error
    watch.event(name, phase, **learned._asdict())
    if task.steps and not learned.outer_loss_after < learned.outer_loss_before:
        watch.warn(
            f"phase {phase}, {name}: learning did not lower the outer loss "
            f"({learned.outer_loss_before:.4f} before, {learned.outer_loss_after:.4f} after): try another "
            "--exemplars.inner-init, more --exemplars.outer-steps or a smaller --exemplars.outer-learning-rate"
        )
    return memory, log_rates


def _models(state: PhaseState) -> Models:
    return Models(state.variables, state.previous, frozen=np.asarray(state.phase > 0))


def _exemplar_model(setup: Setup, state: PhaseState) -> Variables:
    """Θ_i^E."""
    settings, stream, phase = setup.config.exemplars, setup.stream, int(state.phase)
    images = state.memory.images.reshape(-1, *state.memory.images.shape[2:])
    fitted = together.call(
        fit_model,
        setup.inner_program,
        _models(state),
        images,
        state.memory.labels(),
        stream.masks(phase).seen,
        draw_batches(settings, state.memory.used, random_stream(state.key, phase, Use.FIT)),
        np.exp(state.log_rates),
        stream_key(state.key, phase, Use.FIT),
    )
    if not all_finite(fitted):
        what = f"fitting the exemplars: the model is not finite after inner step {settings.unroll_length}"
        raise NumbersError(what, "try a smaller --exemplars.inner-learning-rate")
    return fitted


def _evaluate(setup: Setup, state: PhaseState, variables: Variables, bias: Bias) -> Int32[np.ndarray, "groups"]:
    """Test images of each phase's classes that the method's prediction rule gets right; zero for classes to come."""
    stream, phase = setup.stream, int(state.phase)
    labels = stream.test_labels[stream.test_indices(phase)]
    return right_by_group(labels, predict(setup, phase, state.memory, variables, bias), stream.phase_of_class())


def _with_row(
    matrix: Int32[np.ndarray, "phases groups"], row: int, values: Int32[np.ndarray, "groups"]
) -> Int32[np.ndarray, "phases groups"]:
    changed = matrix.copy()
    changed[row] = values
    return changed
