"""The gate: what it holds out, how it judges, and that exemplars spoilt at random do not pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Events, assert_same_arrays

from mnemonics_jax import nets
from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.exemplars import gate, learning
from mnemonics_jax.exemplars.forgetting import ShortBatches, ShortProgram, decayed, lost_classes, train_short
from mnemonics_jax.exemplars.inner import InnerProblem, InnerProgram, Meta, Models
from mnemonics_jax.exemplars.inner_batches import InnerBatches
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.outer import OuterBatches, OuterProblem, learn_chunk, optimizer
from mnemonics_jax.phase import exemplar_gate
from mnemonics_jax.phase.forgetful import Pool
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runtime import kernels

NOBODY = pytest.fail


def phase_0(setup):
    callbacks = Events()
    state = run_phase(setup, initial_state(setup), callbacks)
    return state, [values for name, _, values in callbacks.events if name == "gate"]


@pytest.fixture(scope="module")
def starting(tiny):
    """The state after phase 0 whose exemplars are the starting images, without a gate."""
    setup = tiny.setup("icarl", "mnemonics", exemplars={"outer_steps": 0})
    return phase_0(setup)[0]


def test_held_out_images_are_a_tenth_of_each_class():
    labels = np.repeat([3, 5, 9], [200, 12, 4])
    held = gate.held_out(np.arange(216) + 7, labels, np.random.default_rng(0))
    np.testing.assert_array_equal(held, np.unique(held))
    np.testing.assert_array_equal(np.bincount(labels[held - 7], minlength=10)[[3, 5, 9]], [20, 5, 2])


def test_candidates_lie_between_and_their_ends_are_the_stored_bytes():
    rng = np.random.default_rng(1)
    one, other = (rng.integers(0, 256, (3, 2, 4, 4, 1), np.uint8) for _ in range(2))
    counts = np.full(3, 2, np.int32)
    start, learned = Memory(one, counts), Memory(other, counts)
    for share in gate.SHARES:
        found = gate.candidate(start, learned, share)
        expected = np.rint(one + share * (other.astype(np.float64) - one))
        np.testing.assert_array_equal(found.images, expected)
        assert found.images.dtype == np.uint8
    floats = (
        start._replace(images=(one / 255).astype(np.float32)),
        learned._replace(images=(other / 255).astype(np.float32)),
    )
    assert_same_arrays(gate.candidate(*floats, 1.0), floats[1])
    assert gate.candidate(*floats, 0.5).images.dtype == np.float32


def test_hits_are_accuracy():
    rng = np.random.default_rng(2)
    logits, labels, seen = rng.normal(size=(50, 6)), rng.integers(0, 4, 50), np.arange(6) < 4
    right = 0
    for row, label in zip(logits, labels, strict=True):
        best = max(range(4), key=lambda c: row[c])
        right += best == label
    assert gate.hits(logits, labels, seen).mean() == right / 50


def correct(*shares, n=400):
    """Held-out images of which each candidate classifies that share correctly."""
    return np.stack([np.arange(n) < share * n for share in shares]).astype(float)


def test_a_clear_lead_is_kept_and_a_tie_is_not():
    assert gate.decide(correct(0.5, 0.5, 0.6, 0.55), lambda _: 0.5, 0.6).share == 0.5
    assert gate.decide(correct(0.5, 0.5, 0.5, 0.5), NOBODY, 0.6).share == 0
    assert gate.decide(correct(0.5, 0.4, 0.3, 0.2), NOBODY, 0.6).share == 0
    # One image of 400 is a lead of one standard error.
    verdict = gate.decide(correct(0.5, 0.5, 0.5, 0.5025), NOBODY, 0.6)
    assert (verdict.share, verdict.scores[0]) == (0, 50.0)
    assert verdict.scores[3] == pytest.approx(50.25)
    assert gate.decide(np.zeros((4, 0)), NOBODY, 0.6).share == 0


def test_what_is_told_apart_gives_way_to_the_next_best():
    told = {2: 0.7, 3: 0.55}
    verdict = gate.decide(correct(0.5, 0.5, 0.9, 0.7), told.get, 0.6)
    assert verdict == gate.Verdict(1.0, [50.0, 50.0, 90.0, 70.0], [None, None, 70.0, pytest.approx(55.0)])
    assert gate.decide(correct(0.5, 0.5, 0.9, 0.7), lambda _: 0.61, 0.6).share == 0


def test_a_pool_forgets_both_halves_of_the_base_classes_and_later_all_new_ones():
    one, other = (lost_classes(range(5), 0, number, np.random.default_rng(0)) for number in (0, 1))
    assert sorted([*one, *other]) == [0, 1, 2, 3, 4]
    assert len(one) == 2
    np.testing.assert_array_equal(lost_classes(range(5, 7), 5, 1, np.random.default_rng(0)), [5, 6])
    assert all(len(lost_classes(range(1), 0, number, np.random.default_rng(0))) == 0 for number in (0, 1))


def test_pixels_moved_at_random_do_not_pass(tiny, starting, monkeypatch):
    def spoil(program, problem, meta, opt_state, batches, key):
        _, opt_state, log = learn_chunk(program, problem, meta, opt_state, batches, key)
        noise = np.random.default_rng(0).uniform(np.asarray(problem.low), np.asarray(problem.high))
        pixels = np.where(np.asarray(problem.learned)[:, None, None, None], noise, meta.pixels).astype(np.float32)
        return Meta(program.devices.put_whole(pixels), meta.log_rates), opt_state, log

    monkeypatch.setattr(learning, "learn_chunk", spoil)
    state, (verdict,) = phase_0(tiny.setup("icarl", "mnemonics", exemplars={"gate": True}))
    assert verdict["share"] == 0
    assert verdict["scores"][3] < verdict["scores"][0]
    assert_same_arrays(state.memory, starting.memory)


def test_unchanged_exemplars_are_the_starting_images_and_cost_nothing(tiny, starting, monkeypatch):
    monkeypatch.setattr(exemplar_gate, "Probe", NOBODY)
    state, (verdict,) = phase_0(tiny.setup("icarl", "mnemonics", exemplars={"gate": True, "outer_steps": 0}))
    assert (verdict["share"], verdict["held_out"], verdict["scores"]) == (0, 0, [])
    assert_same_arrays(state, starting)


def test_the_probe_scores_accuracy_and_prefers_real_images_to_noise(tiny, starting):
    setup = tiny.setup("icarl", "mnemonics", exemplars={"gate": True, "gate_tell_apart": 1.0})
    real = starting.memory
    used = real.used[..., None, None, None]
    noise = np.random.default_rng(0).integers(0, 256, real.images.shape, np.uint8)
    spoilt = starting._replace(memory=real._replace(images=np.where(used, noise, 0).astype(np.uint8)))
    spoilt = spoilt._replace(phase=np.asarray(0, np.int32))
    probe = exemplar_gate.Probe(setup, spoilt, real, 0)
    scores = probe.scores()
    labels = setup.stream.train_labels[probe.judging]
    pixels = setup.stream.dataset.train_images[probe.judging]
    expected = np.zeros(len(labels))
    pool = Pool(setup, spoilt, exemplar_gate.BATCH, exemplar_gate.judging_images(setup, spoilt))
    forgetting = np.full(exemplar_gate.STEPS, exemplar_gate._FORGET_RATE, np.float32)
    way_back = decayed(exemplar_gate._REPLAY_RATE, exemplar_gate.STEPS)
    for number in range(exemplar_gate.POOL):
        model = pool.replay(pool.forgetful(number, forgetting), real, number, way_back)
        logits = np.asarray(
            nets.apply(setup.net, jax.tree.map(jnp.asarray, model), setup.augmentation.evaluate(pixels)).logits
        )[:, :5]
        expected += (logits.argmax(axis=1) == labels) / exemplar_gate.POOL
    np.testing.assert_allclose(scores[3], expected)
    assert scores[3].mean() > scores[0].mean()
    callbacks = Events()
    kept = exemplar_gate.pass_gate(setup, spoilt, real, 0, callbacks)
    assert callbacks.events[0][2]["share"] > 0
    assert (kept.images != spoilt.memory.images).any()
    # Noise has a style of its own.
    back = exemplar_gate.Probe(setup, starting._replace(phase=np.asarray(0, np.int32)), spoilt.memory, 0)
    assert back.tell_apart(3) > 0.6


def test_the_probe_is_not_blind_in_a_later_phase(tiny):
    """A later phase's models forget by old exemplars alone, and the way back must be strong enough for new classes."""
    setup = tiny.setup("icarl", "mnemonics", train={"epochs": 12}, exemplars={"gate": True, "outer_steps": 0})
    state = run_phase(setup, run_phase(setup, initial_state(setup)))._replace(phase=np.asarray(1, np.int32))
    new = (np.arange(10) == 5)[:, None, None, None, None]
    noise = np.random.default_rng(0).integers(0, 256, state.memory.images.shape, np.uint8)
    spoilt = state.memory._replace(images=np.where(new, noise, state.memory.images))
    scores = exemplar_gate.Probe(setup, state._replace(memory=spoilt), state.memory, 0).scores().mean(axis=1)
    assert scores[3] > 0.3
    assert scores[3] > scores[0]


def test_images_that_learning_started_from_do_not_judge(tiny, starting):
    setup = tiny.setup("icarl", "mnemonics", exemplars={"gate": True})
    state = starting._replace(phase=np.asarray(0, np.int32))
    held = exemplar_gate.judging_images(setup, state)
    images, labels = setup.stream.dataset.train_images, setup.stream.train_labels
    memory = state.memory._replace(images=state.memory.images.copy())
    memory.images[labels[held[0]], 0] = images[held[0]]
    learned = memory._replace(images=memory.images ^ 1)
    judging = exemplar_gate.Probe(setup, state._replace(memory=memory), learned, 0).judging
    assert held[0] not in judging
    assert set(judging) < set(held)


def test_the_gate_costs_less_than_a_fifth_of_learning(monkeypatch):
    """Floating-point operations of a loop's body, times its steps, on the settings of the preset `images`."""
    monkeypatch.setattr(kernels, "supports", lambda x: False)
    net, shape, slots, classes = nets.build(nets.NetConfig(), 20, "cosine"), (16, 16, 3), 400, 20
    augmentation = Augmentation(2, True, (0.5,) * 3, (0.25,) * 3)
    settings = Mnemonics(inner_init="class_means", inner_scope="head", unroll_length=0, outer_batch=64, anchor=20.0)
    variables = nets.init(net, jax.random.key(0), shape)
    key, seen = np.zeros(2, np.uint32), np.ones(classes, bool)

    def flops(lowered):
        return lowered.compile().cost_analysis()["flops"]

    steps, batch = exemplar_gate.STEPS, exemplar_gate.BATCH
    images = jnp.zeros((steps, batch, *shape), jnp.uint8)
    batches = ShortBatches(images, np.zeros((steps, batch), np.int32), np.zeros(steps, np.float32))
    short = flops(train_short.lower(ShortProgram(net, augmentation), variables, seen, np.asarray(False), batches, key))
    discriminator = nets.build(exemplar_gate.DISCRIMINATOR, 2, "linear")
    pair = (nets.init(discriminator, jax.random.key(0), shape), np.ones(2, bool), np.asarray(False))
    tell = flops(train_short.lower(ShortProgram(discriminator, augmentation), *pair, batches, key))
    judge = flops(jax.jit(lambda x: nets.apply(net, variables, x).logits).lower(jnp.zeros((256, *shape))))
    pixels = jnp.zeros((slots, *shape))
    meta, chunk = Meta(pixels, jnp.zeros(1)), 10
    models = Models(variables, variables)
    inner = InnerProblem(models, np.zeros(slots, np.int32), seen)
    problem = OuterProblem(inner, np.ones(slots, bool), pixels, pixels)
    drawn = InnerBatches(
        np.zeros((chunk, 0, slots), np.int32),
        np.zeros((chunk, 0, slots), np.float32),
        np.ones((chunk, slots), np.float32),
    )
    outer = OuterBatches(
        jnp.zeros((chunk, 64, *shape), jnp.uint8),
        np.zeros((chunk, 64), np.int32),
        drawn,
        np.zeros(chunk, np.float32),
        np.zeros(chunk, np.int32),
        np.ones(chunk, bool),
    )
    program = InnerProgram(net, settings, augmentation)
    learn = flops(learn_chunk.lower(program, problem, meta, optimizer(1.0).init(meta), outer, key))
    trainings = exemplar_gate.POOL * (1 + len(gate.SHARES))
    # 500 held-out images: two calls of 256 for each model that is judged.
    cost = trainings * steps * short + exemplar_gate.POOL * len(gate.SHARES) * 2 * judge
    # Two folds of each candidate, if every one is ahead.
    cost += 2 * (len(gate.SHARES) - 1) * steps * tell
    assert cost < 0.2 * 200 * learn, cost / (200 * learn)
