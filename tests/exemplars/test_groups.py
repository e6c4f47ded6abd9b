"""Exemplars learned in groups of classes: what a group is, what it changes, and how large one may be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Events

from mnemonics_jax import nets
from mnemonics_jax.exemplars import device_memory as groups
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.problems import group_problems, half_problems, select, update
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.settings import check_ranges

SETTINGS = Mnemonics(per_class=2)


def memory(seen, classes=12):
    images = np.random.default_rng(0).integers(0, 256, (classes, 2, 3, 3, 1), np.uint8)
    return Memory(images, np.where(np.arange(classes) < seen, 2, 0).astype(np.int32))


@pytest.mark.parametrize(
    ("new", "size"), [(range(6), 3), (range(5), 2), (range(6, 8), 4), (range(7, 8), 3), (range(2), 5)]
)
def test_every_new_class_is_learned_once_beside_others(new, size):
    kept = memory(new.stop)
    learned = []
    for problem in group_problems(SETTINGS, kept, new, size):
        part = select(kept, problem)
        assert len(problem.positions) == size
        rows = part.counts > 0
        window = problem.positions[rows]
        assert len(set(window)) == len(window) == min(size, new.stop)
        np.testing.assert_array_equal(part.images[rows], kept.images[window])
        np.testing.assert_array_equal(np.flatnonzero(problem.seen), np.sort(window))
        np.testing.assert_array_equal(problem.inner, part.used)
        assert not problem.learned[~rows].any()
        learned += problem.positions[problem.learned.any(axis=1)].tolist()
    assert learned == list(new)


def test_only_what_was_learned_is_update():
    kept = memory(8)
    (problem,) = group_problems(SETTINGS, kept, range(6, 8), 4)
    part = select(kept, problem)
    after = update(kept, problem, part._replace(images=part.images ^ 255))
    changed = (after.images != kept.images).any((1, 2, 3, 4))
    np.testing.assert_array_equal(np.flatnonzero(changed), [6, 7])
    np.testing.assert_array_equal(after.images[6:8], kept.images[6:8] ^ 255)


def test_a_run_learns_its_groups_and_leaves_old_exemplars_alone(tiny):
    short = {"stream": {"phases": 1}, "train": {"epochs": 1}}
    setup, start = (
        tiny.setup("icarl", "mnemonics", **short, exemplars={"group_classes": 3, "outer_steps": steps})
        for steps in (6, 0)
    )
    callbacks = Events()
    state = run_phase(setup, initial_state(setup), callbacks)
    untouched = run_phase(start, initial_state(start), Events())
    changed = (state.memory.images != untouched.memory.images).any((1, 2, 3, 4))
    np.testing.assert_array_equal(changed, np.arange(10) < 5)
    after = run_phase(setup, state, callbacks)
    np.testing.assert_array_equal(after.memory.images[:5], state.memory.images[:5])
    assert [[event[:2] for event in callbacks.events].count(("exemplars", phase)) for phase in (0, 1)] == [2, 2]


@pytest.mark.parametrize(("old", "size"), [(range(6), 3), (range(5), 2), (range(2), 5), (range(7), 4)])
def test_every_old_class_is_adjusted_once_in_each_half_beside_others(old, size):
    kept = memory(old.stop + 2)
    slots = np.arange(2)
    for half, problems in enumerate(half_problems(SETTINGS, kept, old, size)):
        adjusted = []
        for problem, other in problems:
            part = select(kept, problem)
            assert len(problem.positions) == size
            rows = part.counts > 0
            window = problem.positions[rows]
            assert len(set(window)) == len(window) == min(size, old.stop)
            np.testing.assert_array_equal(np.flatnonzero(problem.seen), np.sort(window))
            # The inner loop has one half of the window's classes, the outer loss the other half of the same.
            np.testing.assert_array_equal(problem.inner, rows[:, None] & (slots % 2 == half))
            np.testing.assert_array_equal(other, problem.seen[:, None] & (slots % 2 != half))
            assert not (problem.learned & ~problem.inner).any()
            assert (problem.cap, problem.steps) == (SETTINGS.adjust_cap, SETTINGS.adjust_steps)
            adjusted += problem.positions[problem.learned.any(axis=1)].tolist()
        assert adjusted == list(old)


def test_a_group_as_large_as_all_is_adjusted_as_without_groups():
    kept = memory(7)
    (((one, _),), _), (((all_, other),), _) = (half_problems(SETTINGS, kept, range(7), size) for size in (7, None))
    np.testing.assert_array_equal(one.positions, all_.positions[:7])
    np.testing.assert_array_equal(one.learned, all_.learned[:7])
    np.testing.assert_array_equal(one.inner, all_.inner[:7])
    np.testing.assert_array_equal(one.seen, all_.seen)
    assert not other[7:].any()


def test_old_exemplars_are_adjusted_in_groups(tiny):
    """All problems of a phase have random streams of their own, and every old class changes, within the cap."""
    changes = {"group_classes": 3, "adjust": True, "adjust_steps": 4, "adjust_cap": 0.03, "outer_learning_rate": 0.1}
    setup = tiny.setup("lwf", "mnemonics", stream={"phases": 1}, train={"epochs": 1}, exemplars=changes)
    state = run_phase(setup, initial_state(setup), Events())
    callbacks = Events()
    after = run_phase(setup, state, callbacks)
    told = [(name, values) for name, _, values in callbacks.events if "outer_loss_after" in values]
    assert [name for name, _ in told] == ["exemplars"] * 2 + ["adjusting"] * 4
    problems = [values["problem"] for name, _, values in callbacks.events if name == "outer"]
    assert sorted(set(problems)) == list(range(6))
    moved = np.abs(after.memory.images[:5].astype(int) - state.memory.images[:5])
    assert (moved.max((1, 2, 3, 4)) > 0).all()
    assert moved.max() <= round(0.03 * 255)


def test_groups_of_one_class_are_refused():
    with pytest.raises(UserError, match=r"--exemplars\.group-classes 1: .* choose at least 2, or 0 for all"):
        dataclasses.replace(SETTINGS, group_classes=1).validate()
    with pytest.raises(UserError, match=r"--exemplars\.group-classes -1: has to be at least 0"):
        check_ranges(dataclasses.replace(SETTINGS, group_classes=-1), "exemplars.")
    for size in (None, 0, 2):
        dataclasses.replace(SETTINGS, group_classes=size, adjust=True).validate()


NET = nets.build(nets.NetConfig(name="resnet18"), 1000, "cosine")
SHAPE = (64, 64, 3)


def choose(monkeypatch, gib, **settings):
    monkeypatch.setattr(groups, "device_bytes", lambda: gib << 30)
    return groups.group_size(dataclasses.replace(SETTINGS, inner_batch=64, **settings), NET, 1000, 20, SHAPE)


def test_the_default_is_the_most_that_fits(monkeypatch):
    assert choose(monkeypatch, 1000) == 0
    sizes = [choose(monkeypatch, gib) for gib in (2, 4, 8)]
    assert 2 <= sizes[0] < sizes[1] < sizes[2] < 1000
    room = 0.75 * (4 << 30)
    assert groups.learning_bytes(dataclasses.replace(SETTINGS, inner_batch=64), NET, sizes[1] * 20, SHAPE) <= room
    assert groups.learning_bytes(dataclasses.replace(SETTINGS, inner_batch=64), NET, (sizes[1] + 1) * 20, SHAPE) > room
    assert choose(monkeypatch, 8, group_classes=7) == 7
    assert choose(monkeypatch, 2, group_classes=0) == 0


def test_what_cannot_fit_is_refused(monkeypatch):
    monkeypatch.setattr(groups, "device_bytes", lambda: 1 << 20)
    with pytest.raises(UserError, match="does not fit the device"):
        groups.group_size(SETTINGS, NET, 1000, 20, SHAPE)


def test_stored_activations_are_about_what_the_compiler_plans():
    # Temporary memory of a compiled gradient of many images.
    net = nets.build(nets.NetConfig(widths=(32, 32)), 5, "linear")
    variables = nets.init(net, jax.random.key(0), (32, 32, 3))

    def loss(params, x):
        return (nets.apply(net, variables._replace(params=params), x).logits ** 2).sum()

    compiled = jax.jit(jax.grad(loss)).lower(variables.params, jnp.zeros((64, 32, 32, 3))).compile()
    planned = compiled.memory_analysis().temp_size_in_bytes
    estimate = 64 * groups.activation_bytes(net, (32, 32, 3))
    assert planned / 3 < estimate < planned * 3
