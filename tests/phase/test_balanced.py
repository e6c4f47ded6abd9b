"""Balanced fine-tuning at the end of a phase: what it trains, on what, and what becomes of the result."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import Events, assert_same_arrays

from mnemonics_jax.phase import balanced
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runtime.errors import NumbersError

STREAM = {"base": 6, "phases": 2}


def phases(setup, callbacks=None):
    """The states after each phase of a run."""
    states = [initial_state(setup)]
    for _ in range(setup.stream.num_phases):
        states.append(run_phase(setup, states[-1], callbacks or NoCallbacks()))
    return states[1:]


@pytest.fixture
def loops(monkeypatch):
    """The balanced loops that run, in order."""
    run_chunks, noted = balanced.run_chunks, []
    monkeypatch.setattr(balanced, "run_chunks", lambda loop, *rest: noted.append(loop) or run_chunks(loop, *rest))
    return noted


def test_it_starts_after_the_base_phase_and_its_result_is_carried_on(tiny, loops):
    plain = tiny.setup("lwf", "herding", stream=STREAM)
    tuned = tiny.setup("lwf", "herding", stream=STREAM, train={"balanced_steps": 30})
    base, *_ = phases(plain)
    assert not loops
    events = Events()
    first, second, third = phases(tuned, events)
    assert_same_arrays(first, base)
    assert len(loops) == 2
    # The trained model and the exemplars are those of a phase without it; the tuned model replaces the trained one.
    once = run_phase(plain, base, NoCallbacks())
    assert_same_arrays(loops[0].start, once.variables)
    assert_same_arrays(second.memory, once.memory)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (second.variables, once.variables)), strict=True))
    assert_same_arrays(second.previous, first.variables)
    assert_same_arrays(third.previous, second.variables)
    assert {phase for name, phase, _ in events.events if name == "balanced"} == {1, 2}


def test_it_trains_on_all_exemplars_and_nothing_else(tiny, loops):
    setup = tiny.setup("lwf", "herding", stream=STREAM, train={"balanced_steps": 3})
    _, second, _ = phases(setup)
    samples = loops[0].samples
    np.testing.assert_array_equal(np.bincount(samples.labels[samples.indices]), [4] * 8)
    slots = second.memory.images.reshape(-1, *second.memory.images.shape[2:])
    expected = slots[samples.indices - setup.first_slot]
    np.testing.assert_array_equal(np.asarray(samples.store.gather(samples.indices)), expected)


def test_it_takes_back_the_bias_towards_new_classes(tiny):
    plain, tuned = (
        phases(tiny.setup("lwf", "herding", stream=STREAM, train={"epochs": 10, "balanced_steps": steps}))[-1]
        for steps in (0, 100)
    )
    assert tuned.num_correct[-1, 0] > plain.num_correct[-1, 0] + 20
    assert tuned.num_correct[-1].sum() > plain.num_correct[-1].sum()


def test_frozen_kernels_stay_frozen_and_every_class_of_the_head_trains(tiny, loops):
    setup = tiny.setup("lucir", "herding", stream=STREAM, net={"weight_transfer": True}, train={"balanced_steps": 20})
    _, second, _ = phases(setup)
    before, after = (flatten_dict(variables.params, sep="/") for variables in (loops[0].start, second.variables))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert not [name for name in changed if "conv" in name and name.endswith("/kernel")]
    assert [name for name in changed if name.endswith("filter_scale")]
    columns = (before["head/kernel"] != after["head/kernel"]).any(axis=0)
    assert columns[:8].all(), "old classes as well as new ones"


def test_methods_without_memory_go_without_it(tiny, loops):
    phases(tiny.setup("finetune", "herding", stream=STREAM, train={"epochs": 1, "balanced_steps": 20}))
    assert not loops


def test_numbers_that_are_not_finite_end_the_run(tiny):
    train = {"balanced_steps": 24, "balanced_learning_rate": 1e30}
    with pytest.raises(NumbersError, match="balanced fine-tuning") as caught:
        phases(tiny.setup("lwf", "herding", stream=STREAM, train=train))
    assert "--train.balanced-learning-rate" in caught.value.advice


def test_the_model_is_tuned_under_the_correction_that_it_predicts_with(tiny, loops):
    setup = tiny.setup("bic", "herding", stream=STREAM, train={"epochs": 4, "balanced_steps": 20})
    _, second, _ = phases(setup)
    assert_same_arrays(loops[0].context.correction, second.correction)
    assert (second.correction.scale != 1).any()
    state, _ = loops[0].run(loops[0].begin(None), next(loops[0].batches(0)))
    # Without the correction the same batch gives another gradient.
    none = loops[0].context.correction._replace(scale=np.ones(10, np.float32), shift=np.zeros(10, np.float32))
    bare = replace(loops[0], context=loops[0].context._replace(correction=none))
    other, _ = bare.run(bare.begin(None), next(bare.batches(0)))
    kernels = (np.asarray(s.variables.params["head"]["kernel"]) for s in (state, other))
    assert (next(kernels) != next(kernels)).any()
