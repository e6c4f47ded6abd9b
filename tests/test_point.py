"""A phase that goes on from any point of it ends with the same bits as one that ran through."""

import itertools
from typing import NamedTuple

import jax
import pytest

from mnemonics_jax.checkpoint import Checkpoints, SaveConfig, Saved
from mnemonics_jax.phase import run_phase
from mnemonics_jax.point import Point, Stage
from mnemonics_jax.state import initial_state
from mnemonics_jax.watch import Silent


class PhaseStateStub(NamedTuple):
    """As much of a state as the question when to save asks for."""

    phase: int


class Events(Silent):
    """Keeps the events of a phase."""

    def __init__(self):
        self.events = []

    def event(self, name, phase, **values):
        self.events.append((name, phase, values))


def same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def second_phase(setup):
    """Points of phase 1, each with how many events came before it, what the phase ends with, and all its events."""
    state = run_phase(setup, initial_state(setup), Silent())
    watch, points = Events(), []
    end = run_phase(setup, state, watch, lambda point: points.append((point, len(watch.events))))
    return points, end, watch.events


CASES = {
    # Weight transfer freezes by phase, LUCIR imprints before training: neither may happen twice.
    "imprinting": ("lucir", "mnemonics", {"net": {"weight_transfer": True}}),
    "calibration": ("bic", "random", {}),
    "adjusting": (
        "icarl",
        "mnemonics",
        {"exemplars": {"adjust": True, "adjust_steps": 4, "inner_batch": 8, "learn_inner_rates": True}},
    ),
    "floats": ("lwf", "mnemonics", {"exemplars": {"store": "float32", "outer_steps": 7, "outer_chunk": 3}}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_point_of_a_phase_leads_to_the_same_end(tiny, tmp_path, case):
    method, kind, changes = CASES[case]
    setup = tiny.setup(method, kind, stream={"phases": 1}, **{"train": {"epochs": 2}, **changes})
    points, end, events = second_phase(setup)
    stages = [point.stage for point, _ in points]
    assert stages == sorted(stages)
    expected = {Stage.TRAINING} | ({Stage.EXEMPLARS} if kind == "mnemonics" else set())
    assert set(stages) == (set(Stage) if case == "adjusting" else expected)
    names = [point.name for point, _ in points]
    assert names == sorted(set(names))
    # The first and the last of each stage; those between differ by their number alone.
    chosen = [item for _, group in itertools.groupby(points, key=lambda item: item[0].stage) for item in ends(group)]
    for point, before in chosen:
        # By way of the disk, since that is where points come from.
        with Checkpoints(tmp_path / point.name) as checkpoints:
            checkpoints.save(Saved(point, [], 0.0, 0))
        with Checkpoints(tmp_path / point.name) as checkpoints:
            restored = checkpoints.latest(setup, initial_state(setup), pytest.fail).point
        assert (restored.stage, restored.done) == (point.stage, point.done)
        watch = Events()
        same_bits(run_phase(setup, restored, watch), end)
        assert events[:before] + watch.events == events


def ends(group):
    first, *rest = group
    return [first, *rest[-1:]]


def test_a_point_is_saved_after_enough_steps_and_enough_time():
    config = SaveConfig(every_steps=100, every_outer_steps=25, min_seconds=5.0)
    state = PhaseStateStub(2)

    def due(stage, done, last, seconds=5.0):
        return config.due(Point(state, stage, done, None), last, seconds)

    begin = Point(state)
    assert [done for done in range(16, 200, 16) if due(Stage.TRAINING, done, begin)] == [112, 128, 144, 160, 176, 192]
    trained = Point(state, Stage.TRAINING, 112, None)
    assert [done for done in range(128, 240, 16) if due(Stage.TRAINING, done, trained)] == [224]
    assert not due(Stage.TRAINING, 224, trained, 4.9)
    # Another stage, or the same stage of another phase, begins anew.
    assert due(Stage.EXEMPLARS, 25, trained)
    assert not due(Stage.EXEMPLARS, 24, trained)
    assert due(Stage.ADJUSTING_A, 30, Point(state, Stage.EXEMPLARS, 30, None))
    assert due(Stage.EXEMPLARS, 30, Point(PhaseStateStub(1), Stage.EXEMPLARS, 30, None))
