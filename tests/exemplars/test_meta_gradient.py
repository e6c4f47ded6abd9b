"""The exemplar meta-gradient against central differences, and what a chunk of outer steps may and may not change."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.exemplars import inner, learning, memory
from mnemonics_jax.exemplars.inner import InnerProblem, InnerProgram, Meta, Models
from mnemonics_jax.exemplars.inner_batches import draw_batches
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.outer import OuterBatches, OuterProblem, learn_chunk, meta_gradient, optimizer, outer_loss
from mnemonics_jax.exemplars.problems import new_problem
from mnemonics_jax.nets import NetConfig, apply, build, init
from mnemonics_jax.phase import exemplar_level
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import ResumePoint, Stage, initial_state
from mnemonics_jax.runtime.random_streams import Use, random_stream, root_key

CLASSES, SEEN, EACH, SIDE, STEPS = 5, 4, 2, 6, 3
SETTINGS = Mnemonics(
    per_class=EACH,
    unroll_length=STEPS,
    inner_init="reset_head",
    inner_scope="all",
    inner_learning_rate=0.2,
    inner_momentum=0.9,
    inner_augment=False,
    outer_augment=False,
    remat="step",
)
INITS = ("ridge", "class_means", "current", "reset_head", "previous", "perturbed", "partly_reset", "fresh")
SCOPES = ("head", "last_stage", "all")


def to_double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64 if leaf.dtype.kind == "f" else None), tree)


def random_model(net, seed):
    """A model with statistics, scales and shifts of its own, as a trained one has."""
    variables = init(net, jax.random.key(seed), (SIDE, SIDE, 1))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda p: p + 0.2 * rng.standard_normal(p.shape), variables.params)
    stats = jax.tree.map(lambda s: s + rng.uniform(0, 0.3, s.shape), variables.batch_stats)
    return variables._replace(params=params, batch_stats=stats)


def make_case(seed=0, head="linear", crop=0, flip=False, frozen=None, **settings):
    """Program, problem, pixels and one outer batch; the last class is unseen and its slots are empty."""
    rng = np.random.default_rng(seed)
    net = build(NetConfig(name="convnet", widths=(4, 6), weight_transfer=frozen is not None), CLASSES, head)
    program = InnerProgram(net, dataclasses.replace(SETTINGS, **settings), Augmentation(crop, flip, (0.4,), (0.3,)))
    slots = CLASSES * EACH
    kept = memory.Memory(np.zeros((CLASSES, EACH, SIDE, SIDE, 1), np.uint8), np.array([2, 2, 1, 2, 0], np.int32))
    labels, seen = kept.labels(), np.arange(CLASSES) < SEEN
    models = Models(random_model(net, 1), random_model(net, 2), np.asarray(bool(frozen)))
    shape = (slots, SIDE, SIDE, 1)
    problem = OuterProblem(InnerProblem(models, labels, seen), kept.used.reshape(-1), np.zeros(shape), np.ones(shape))
    batch = OuterBatches(
        images=rng.uniform(size=(12, SIDE, SIDE, 1)),
        labels=np.arange(12, dtype=np.int32) % SEEN,
        inner=draw_batches(program.settings, kept.used, random_stream(root_key(seed), 0, Use.INNER_BATCHES)),
        learning_rate=np.float32(0.02),
        index=np.int32(0),
        active=np.bool_(True),
    )
    rates = np.log(program.settings.inner_learning_rate) + 0.1 * rng.standard_normal(program.settings.unroll_length)
    return program, problem, Meta(rng.uniform(0.2, 0.8, shape), rates), batch


def loss_and_gradient(case):
    program, problem, _, batch = case
    models, images = to_double(problem.inner.models), jnp.asarray(batch.images, jnp.float64)
    problem = problem._replace(inner=problem.inner._replace(models=models))
    problem, batch = jax.tree.map(jnp.asarray, (problem, batch._replace(images=images)))
    key = jax.random.key(7)

    def function(meta):
        return meta_gradient(program, problem, meta, batch, key)

    # Each program runs a few times only: most of its cost is the compilation.
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def worst_error(case, epsilon=1e-5, parts=(*Meta._fields, "pixels")):
    """Largest relative error of the gradient along random unit directions, against central differences."""
    value_and_grad, rng = loss_and_gradient(case), np.random.default_rng(3)
    meta = to_double(case[2])
    value, gradients = value_and_grad(meta)
    assert value.dtype == gradients.pixels.dtype == gradients.log_rates.dtype == jnp.float64
    errors = []
    for part in parts:
        point, gradient = getattr(meta, part), getattr(gradients, part)
        assert jnp.linalg.norm(gradient) > 1e-4
        # A random unit direction has a derivative of about this size; one that cancels is judged by it, not by itself.
        typical = jnp.linalg.norm(gradient) / np.sqrt(gradient.size)
        direction = rng.standard_normal(point.shape)
        direction /= np.linalg.norm(direction)
        moved = (meta._replace(**{part: point + sign * epsilon * direction}) for sign in (1, -1))
        above, below = (value_and_grad(place)[0] for place in moved)
        difference = (above - below) / (2 * epsilon)
        errors.append(abs(jnp.vdot(gradient, direction) - difference) / max(abs(difference), typical))
    return float(max(errors)), gradients.pixels


@pytest.mark.parametrize(
    "settings",
    [
        {"inner_scope": "all"},
        {"inner_scope": "head", "inner_init": "ridge"},
        {"inner_scope": "head", "inner_init": "class_means", "unroll_length": 0},
    ],
    ids=str,
)
def test_the_engine_computes_the_outer_loss(settings):
    with jax.enable_x64(True):
        case = make_case(**settings)
        program, problem, meta, batch = case
        problem, batch = jax.tree.map(jnp.asarray, (problem, batch))
        loss = jax.jit(lambda meta: outer_loss(program, problem, meta, batch, jax.random.key(7)))
        single = jax.tree.map(jnp.float32, meta)
        np.testing.assert_allclose(loss_and_gradient(case)(single)[0], loss(single), rtol=1e-5)


@pytest.fixture(autouse=True)
def _double_start(monkeypatch):
    """Networks initialised inside the inner loop in the type of the test: their BatchNorm would be float32 always."""
    original = inner.init

    def init_in_default_type(*args):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.zeros(()).dtype), original(*args))

    monkeypatch.setattr(inner, "init", init_in_default_type)


@pytest.mark.parametrize(("inner_init", "inner_scope"), list(itertools.product(INITS, SCOPES)))
def test_meta_gradient_agrees_with_differences_from_every_start_and_in_every_scope(inner_init, inner_scope):
    with jax.enable_x64(True):
        # The means' logits are steep: at the usual rate the loop leaps over ReLUs' kinks, which differences trip over.
        rate = 0.02 if inner_init == "class_means" else SETTINGS.inner_learning_rate
        case = make_case(inner_init=inner_init, inner_scope=inner_scope, inner_learning_rate=rate)
        error, gradient = worst_error(case)
        assert error < 1e-6
        assert not np.asarray(gradient)[~case[1].learned].any(), "an empty slot is not looked at"


@pytest.mark.parametrize(
    "settings",
    [
        {"remat": "none"},
        {"remat": "segments", "unroll_length": 5},
        {"inner_momentum": 0.0},
        {"inner_momentum": 0.0, "inner_scope": "head"},
        {"head": "cosine"},
        {"head": "cosine", "inner_scope": "head"},
        {"head": "cosine", "inner_init": "current"},
        {"crop": 1, "inner_augment": True, "outer_augment": True},
        {"crop": 1, "flip": True, "inner_augment": True, "outer_augment": True, "inner_scope": "head"},
        {"inner_batch": 3},
        {"anchor": 3.0},
        {"anchor": 3.0, "inner_init": "class_means", "inner_scope": "head"},
        {"inner_optimizer": "adam", "inner_learning_rate": 0.02},
        {"inner_optimizer": "adam", "inner_learning_rate": 0.02, "inner_scope": "head"},
        {"frozen": True},
        {"frozen": False},
    ],
    ids=str,
)
def test_meta_gradient_agrees_with_differences_under_every_other_setting(settings):
    with jax.enable_x64(True):
        assert worst_error(make_case(**settings))[0] < 1e-6


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_meta_gradient_through_the_nearest_mean_classifier(head):
    """No inner step, so no step sizes: the inner problem in closed form."""
    with jax.enable_x64(True):
        case = make_case(head=head, inner_init="class_means", unroll_length=0)
        case = (*case[:2], case[2]._replace(log_rates=np.zeros(1)), case[3])
        error, gradient = worst_error(case, parts=["pixels", "pixels"])
        assert error < 1e-6
        assert not np.asarray(gradient)[~case[1].learned].any()


@pytest.mark.parametrize("settings", [{"first_order": True}, {"truncate": 1}], ids=str)
def test_an_approximate_meta_gradient_is_told_from_the_exact_one(settings):
    with jax.enable_x64(True):
        assert worst_error(make_case(**settings))[0] > 1e-3


def test_the_anchor_adds_the_mean_distance_to_the_class_vectors():
    """With no augmentation and no inner step: one minus the cosine of a feature and its class's mean unit feature."""
    settings = {"inner_init": "class_means", "unroll_length": 0, "inner_scope": "head"}
    with jax.enable_x64(True):
        cases = [make_case(anchor=anchor, **settings) for anchor in (0.0, 3.0)]
        program, problem, meta, batch = cases[0]
        meta = to_double(meta._replace(log_rates=np.zeros(1)))
        plain, more = (float(loss_and_gradient(case)(meta)[0]) for case in cases)
        model = to_double(problem.inner.models.current)

        def unit_features(images):
            shown = program.augmentation.evaluate(jnp.asarray(images))
            features = np.asarray(apply(program.net, model, shown).features)
            return features / np.linalg.norm(features, axis=1, keepdims=True)

        kept, queries = unit_features(meta.pixels), unit_features(batch.images)
    used = np.asarray(batch.inner.usable) > 0
    cosines = []
    for feature, label in zip(queries, batch.labels, strict=True):
        mean = kept[used & (problem.inner.labels == label)].mean(axis=0)
        cosines.append(feature @ mean / np.linalg.norm(mean))
    np.testing.assert_allclose(more - plain, 3 * (1 - np.mean(cosines)), rtol=1e-9)


def chunk_inputs(learning_rate=0.02, **settings):
    """A chunk of three outer steps of which the last is not active, in the types a run uses."""
    program, problem, start, batch = make_case(**settings)
    problem = problem._replace(learned=problem.learned & (problem.inner.labels == 3))
    rng = np.random.default_rng(5)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * 3), batch)._replace(
        images=rng.integers(0, 256, (3, 12, SIDE, SIDE, 1)).astype(np.uint8),
        learning_rate=np.full(3, learning_rate, np.float32),
        index=np.arange(3, dtype=np.int32),
        active=np.array([True, True, False]),
    )
    start = Meta(*(leaf.astype(np.float32) for leaf in start))
    state = optimizer(program.settings.outer_clip).init(jax.tree.map(jnp.asarray, start))
    return program, problem, start, state, stacked


KEY = np.array([1, 2], np.uint32)


def test_a_chunk_moves_the_learned_slots_and_no_other():
    program, problem, start, state, batches = chunk_inputs()
    (moved, log_rates), _, log = learn_chunk(program, problem, start, state, batches, KEY)
    assert np.asarray(moved)[~problem.learned].tobytes() == start.pixels[~problem.learned].tobytes()
    assert (np.abs(np.asarray(moved) - start.pixels)[problem.learned].max(axis=(1, 2, 3)) > 0.01).all()
    np.testing.assert_array_equal(log_rates, start.log_rates)
    assert (np.asarray(log.gradient_norm)[:2] > 0).all()


def test_the_gradient_norm_is_that_of_the_learned_slots():
    program, problem, start, state, batches = chunk_inputs()
    key, batch = jax.random.wrap_key_data(KEY), jax.tree.map(lambda leaf: leaf[0], batches)
    gradient = jax.jit(partial(meta_gradient, program))(problem, start, batch, jax.random.fold_in(key, 0))[1]
    pixels, learned = np.asarray(gradient.pixels), problem.learned
    assert pixels[~learned].any(), "the others have a gradient, too"
    log = learn_chunk(program, problem, start, state, batches, KEY)[2]
    np.testing.assert_allclose(log.gradient_norm[0], np.linalg.norm(pixels[learned]), rtol=1e-4)


def test_a_chunk_learns_inner_step_sizes_where_asked():
    program, problem, start, state, batches = chunk_inputs(learn_inner_rates=True)
    log_rates = np.asarray(learn_chunk(program, problem, start, state, batches, KEY)[0].log_rates)
    # Adam's first steps are about as long as its step size, 0.02, in every coordinate.
    assert (np.abs(log_rates - start.log_rates) > 0.005).all()


def test_a_chunk_keeps_pixels_in_range_however_long_the_step():
    program, problem, start, state, batches = chunk_inputs(learning_rate=50.0)
    moved = np.asarray(learn_chunk(program, problem, start, state, batches, KEY)[0].pixels)[problem.learned]
    assert moved.min() == 0
    assert moved.max() == 1


def test_a_chunk_keeps_pixels_within_the_bounds_of_the_problem():
    program, problem, start, state, batches = chunk_inputs(learning_rate=50.0)
    problem = problem._replace(low=np.maximum(start.pixels - 0.1, 0), high=np.minimum(start.pixels + 0.1, 1))
    moved = np.asarray(learn_chunk(program, problem, start, state, batches, KEY)[0].pixels)
    np.testing.assert_allclose(np.abs(moved - start.pixels)[problem.learned].max(), 0.1, rtol=1e-5)


def test_a_step_that_is_not_active_changes_nothing():
    program, problem, start, state, batches = chunk_inputs()
    idle = batches._replace(active=np.zeros(3, bool))
    kept, kept_state, _ = learn_chunk(program, problem, start, state, idle, KEY)
    assert np.asarray(kept.pixels).tobytes() == start.pixels.tobytes()
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), kept_state, state))
    # What the idle last step holds does not matter to the two active ones before it.
    other = batches._replace(images=np.concatenate([batches.images[:2], 255 - batches.images[2:]]))
    first, second = (learn_chunk(program, problem, start, state, b, KEY) for b in (batches, other))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first, second))


class Recording(NoCallbacks):
    def __init__(self):
        self.events = []

    def event(self, name, phase, **values):
        self.events.append((name, phase, values))


@pytest.fixture(scope="module")
def learned(tiny):
    """Exemplars of four of five digits learned, with the pixels whose outer loss was measured before and after."""
    changes = {"outer_steps": 60, "outer_learning_rate": 0.05, "inner_scope": "head", "inner_learning_rate": 1.0}
    setup = tiny.setup("icarl", "mnemonics", train={"epochs": 8}, exemplars=changes)
    # The base phase's model, without exemplars of its own.
    herded = dataclasses.replace(setup, config=tiny.config("icarl", "herding", train={"epochs": 8}))
    trained, start = run_phase(herded, initial_state(herded), NoCallbacks()), initial_state(setup)
    state, stream = start._replace(variables=trained.variables), setup.stream
    kept, rng = state.memory, np.random.default_rng(0)
    for c in range(5):
        images = stream.dataset.train_images[stream.train_labels == c]
        kept = memory.add_classes(kept, {c: images[rng.permutation(len(images))[:4]]})
    measured, original = [], learning.outer_losses

    def spy(program, problem, meta, *rest):
        measured.append(np.asarray(meta.pixels))
        return original(program, problem, meta, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "outer_losses", spy)
        state = state._replace(memory=kept)
        problem = new_problem(setup.config.exemplars, kept, range(1, 5))
        callbacks = Recording()
        point = ResumePoint(state, Stage.EXEMPLARS)
        after = exemplar_level.learn_exemplars(setup, point, problem, stream.train_indices(0), callbacks).memory
    ((_, _, log),) = [event for event in callbacks.events if event[0] == "exemplars"]
    return kept, after, log, measured


def test_learning_lowers_the_outer_loss(learned):
    log = learned[2]
    assert log["outer_loss_after"] < 0.9 * log["outer_loss_before"]
    assert log["pixel_change"] > 0.02
    assert log["gradient_norm"] > 0


def test_the_reported_loss_is_measured_on_the_stored_bytes(learned):
    before, after, _, measured = learned
    assert after.images.dtype == np.uint8
    np.testing.assert_array_equal(measured[0], (before.images / np.float32(255)).reshape(measured[0].shape))
    np.testing.assert_array_equal(measured[1], (after.images / np.float32(255)).reshape(measured[1].shape))


def test_learning_leaves_all_other_classes_alone(learned):
    before, after, *_ = learned
    others = [c for c in range(10) if c not in range(1, 5)]
    assert after.images[others].tobytes() == before.images[others].tobytes()
    assert (after.images[1:5] != before.images[1:5]).any(axis=(1, 2, 3, 4)).all()
    np.testing.assert_array_equal(after.counts, before.counts)
