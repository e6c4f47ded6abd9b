"""Adjusting old exemplars: which half learns from which, and what stays where it is."""

import numpy as np
import pytest
from helpers import Events

from mnemonics_jax.exemplars import learning, memory
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.problems import half_problems
from mnemonics_jax.phase import exemplar_level
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state


def filled(counts):
    """A memory whose class c uses counts[c] of its slots."""
    kept = memory.empty(len(counts), max(counts), (4, 4, 1))
    return kept._replace(counts=np.asarray(counts, np.int32))


def test_halves_are_disjoint_class_wise_and_old():
    kept = filled([5, 4, 3, 5])
    ((first, first_other),), ((second, second_other),) = half_problems(Mnemonics(), kept, range(3))
    np.testing.assert_array_equal(first.learned, second_other)
    np.testing.assert_array_equal(second.learned, first_other)
    assert not (first.learned & second.learned).any()
    np.testing.assert_array_equal(first.learned | second.learned, kept.used & (np.arange(4) < 3)[:, None])
    assert first.learned[:3].any(axis=1).all()
    assert second.learned[:3].any(axis=1).all()
    for problem in (first, second):
        np.testing.assert_array_equal(problem.inner, problem.learned)
        np.testing.assert_array_equal(problem.seen, [True, True, True, False])


@pytest.mark.parametrize(("counts", "old"), [([2, 1, 2], range(3)), ([4, 4], range(0))])
def test_nothing_is_adjusted_without_two_exemplars_or_old_classes(counts, old):
    assert half_problems(Mnemonics(), filled(counts), old) == []


@pytest.fixture(scope="module")
def adjusted(tiny):
    """A phase 1 with adjusting: the state before and after, and every bilevel problem with its outer batches."""
    changes = {"adjust": True, "adjust_steps": 6, "adjust_cap": 0.03, "outer_learning_rate": 0.1}
    setup = tiny.setup("lwf", "mnemonics", exemplars=changes)
    state = run_phase(setup, initial_state(setup), NoCallbacks())
    calls, chunks = [], []
    learn, learn_chunk = exemplar_level.learn_exemplars, learning.learn_chunk

    def spy(setup, point, problem, *rest):
        after = learn(setup, point, problem, *rest)
        calls.append((point.state.memory, problem, after.memory))
        return after

    def spy_chunk(program, problem, meta, opt_state, batches, key):
        chunks.append((len(calls), batches))
        return learn_chunk(program, problem, meta, opt_state, batches, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exemplar_level, "learn_exemplars", spy)
        patch.setattr(learning, "learn_chunk", spy_chunk)
        return setup, state, run_phase(setup, state, NoCallbacks()), calls, chunks


def test_the_new_exemplars_come_first_then_both_halves(adjusted):
    _, _, after, calls, _ = adjusted
    assert len(calls) == 3
    new, first, second = (problem for _, problem, _ in calls)
    assert new.learned[5].all()
    assert not new.learned[:5].any()
    assert not first.learned[5:].any()
    assert (first.learned | second.learned)[:5].all()
    np.testing.assert_array_equal(calls[-1][2].images, after.memory.images)


def test_no_half_sees_its_own_loss(adjusted):
    setup, _, _, calls, chunks = adjusted
    flat = setup.config.exemplars.per_class * 10
    for call, batches in chunks:
        if call == 0:
            continue
        learned = calls[call][1].learned.reshape(-1)
        # Inner batches weigh the learning half alone; every outer image is an exemplar of the other half.
        assert not batches.inner.weights[..., ~learned].any()
        assert batches.inner.weights[..., learned].all()
        others = np.flatnonzero((calls[call][0].used.reshape(-1)) & ~learned & (np.arange(flat) < 5 * flat // 10))
        bank = calls[call][0].images.reshape(flat, -1)
        images = np.asarray(batches.images).reshape(-1, bank.shape[1])
        assert all(any(np.array_equal(image, bank[slot]) for slot in others) for image in images[:40])
        assert not any(np.array_equal(image, bank[slot]) for image in images[:40] for slot in np.flatnonzero(learned))


def test_a_pixel_moves_no_farther_than_the_cap(adjusted):
    _, state, after, calls, _ = adjusted
    before = calls[1][0].images[:5].astype(int)
    moved = np.abs(after.memory.images[:5].astype(int) - before)
    assert 0 < moved.max() <= round(0.03 * 255)
    np.testing.assert_array_equal(before, state.memory.images[:5])


def test_unseen_classes_keep_their_empty_slots(adjusted):
    _, _, after, _, _ = adjusted
    assert not after.memory.images[6:].any()
    assert not after.memory.counts[6:].any()


def run_two_phases(setup):
    callbacks = Events()
    run_phase(setup, run_phase(setup, initial_state(setup), callbacks), callbacks)
    return callbacks


def test_what_learning_did_is_told_and_a_loss_that_did_not_fall_warns(tiny):
    # A step this long throws every pixel to a bound of its range: the outer loss rises.
    changes = {"outer_learning_rate": 50.0, "adjust": True, "inner_scope": "head", "unroll_length": 10}
    callbacks = run_two_phases(tiny.setup("lwf", "mnemonics", train={"epochs": 8}, exemplars=changes))
    told = {(name, phase): values for name, phase, values in callbacks.events if "outer_loss_after" in values}
    assert told.keys() == {("exemplars", 0), ("exemplars", 1), ("adjusting", 1)}
    for (name, phase), values in told.items():
        assert values["gradient_norm"] > 0
        assert values["pixel_change"] > 0
        if values["outer_loss_after"] >= values["outer_loss_before"]:
            assert any(f"phase {phase}, {name}:" in message for message in callbacks.warnings)
    assert told["exemplars", 0]["outer_loss_after"] > told["exemplars", 0]["outer_loss_before"]
    assert "--exemplars.outer-learning-rate" in callbacks.warnings[0]


def test_learned_inner_step_sizes_stay_with_the_run(tiny):
    changes = {"learn_inner_rates": True, "outer_learning_rate": 0.1, "inner_scope": "head"}
    setup = tiny.setup("lwf", "mnemonics", exemplars=changes)
    first = run_phase(setup, initial_state(setup), NoCallbacks())
    second = run_phase(setup, first, NoCallbacks())
    start = np.log(setup.config.exemplars.inner_learning_rate)
    assert (np.abs(first.log_rates - start) > 0.01).all()
    assert (second.log_rates != first.log_rates).all()
