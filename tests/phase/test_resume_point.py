"""A phase that goes on from any point of it ends with the same bits as one that ran through."""

import itertools
from typing import NamedTuple

import pytest
from helpers import Events, assert_same_arrays

from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import ResumePoint, Stage, initial_state
from mnemonics_jax.runs.checkpoint import Checkpoint, CheckpointFolder
from mnemonics_jax.runs.checkpoint_schedule import is_due
from mnemonics_jax.runs.record import record_of
from mnemonics_jax.runs.save_config import SaveConfig


class PhaseStateStub(NamedTuple):
    """As much of a state as the question when to save asks for."""

    phase: int


class Recording(Events):
    """Keeps the events of a phase, and its points, each with how many events came before it."""

    def __init__(self):
        super().__init__()
        self.points = []

    def checkpoint(self, point):
        self.points.append((point, len(self.events)))


def second_phase(setup):
    """Points of phase 1, each with how many events came before it, what the phase ends with, and all its events."""
    state = run_phase(setup, initial_state(setup), NoCallbacks())
    callbacks = Recording()
    end = run_phase(setup, state, callbacks)
    return callbacks.points, end, callbacks.events


# Three chunks of eight steps, the last half idle.
TUNED = {"epochs": 2, "balanced_steps": 20}

CASES = {
    # Weight transfer freezes by phase, LUCIR imprints before training: neither may happen twice.
    "imprinting": ("lucir", "mnemonics", {"net": {"weight_transfer": True}, "train": TUNED}),
    "calibration": ("bic", "random", {}),
    "tuning": ("bic", "random", {"train": TUNED}),
    "adjusting": (
        "icarl",
        "mnemonics",
        {
            "train": TUNED,
            "exemplars": {"adjust": True, "adjust_steps": 4, "inner_batch": 8, "learn_inner_rates": True},
        },
    ),
    # Windows of 3 of 5 old classes, and of 5 new ones: each stage has two parts.
    "adjusting in groups": (
        "lwf",
        "mnemonics",
        {"exemplars": {"adjust": True, "adjust_steps": 4, "group_classes": 3, "inner_scope": "head"}},
    ),
    "gate": ("icarl", "mnemonics", {"exemplars": {"gate": True, "group_classes": 3}}),
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
    expected |= {Stage.ADJUSTING_A, Stage.ADJUSTING_B} if "adjusting" in case else set()
    expected |= {Stage.BALANCED} if changes.get("train") == TUNED else set()
    assert set(stages) == expected
    parts = {(point.stage, point.part) for point, _ in points}
    assert len(parts) == {"adjusting in groups": 1 + 3 * 2, "gate": 1 + 2}.get(case, len(set(stages)))
    names = [point.name for point, _ in points]
    assert names == sorted(set(names))
    # The first and the last of each part of a stage; those between differ by their number alone.
    by_part = itertools.groupby(points, key=lambda item: (item[0].stage, item[0].part))
    chosen = [item for _, group in by_part for item in ends(group)]
    for point, before in chosen:
        # By way of the disk, since that is where points come from.
        with CheckpointFolder(tmp_path / point.name) as checkpoints:
            checkpoints.save(Checkpoint(point, [], 0.0, 0, record_of(setup, begins=True)))
        with CheckpointFolder(tmp_path / point.name) as checkpoints:
            restored = checkpoints.latest(setup, initial_state(setup), pytest.fail).resume_point
        assert (restored.stage, restored.part, restored.done) == (point.stage, point.part, point.done)
        callbacks = Events()
        assert_same_arrays(run_phase(setup, restored, callbacks), end)
        assert events[:before] + callbacks.events == events


def ends(group):
    first, *rest = group
    return [first, *rest[-1:]]


def test_a_point_is_saved_after_enough_steps_and_enough_time():
    config = SaveConfig(every_steps=100, every_outer_steps=25, min_seconds=5.0)
    state = PhaseStateStub(2)

    def due(stage, done, last, seconds=5.0):
        return is_due(config, ResumePoint(state, stage, done, None), last, seconds)

    begin = ResumePoint(state)
    assert [done for done in range(16, 200, 16) if due(Stage.TRAINING, done, begin)] == [112, 128, 144, 160, 176, 192]
    trained = ResumePoint(state, Stage.TRAINING, 112, None)
    assert [done for done in range(128, 240, 16) if due(Stage.TRAINING, done, trained)] == [224]
    assert not due(Stage.TRAINING, 224, trained, 4.9)
    tuned = ResumePoint(state, Stage.BALANCED, 112, None)
    assert due(Stage.BALANCED, 100, trained)
    assert not due(Stage.BALANCED, 208, tuned)
    # Another stage, or the same stage of another phase, begins anew.
    assert due(Stage.EXEMPLARS, 25, trained)
    assert not due(Stage.EXEMPLARS, 24, trained)
    assert due(Stage.ADJUSTING_A, 30, ResumePoint(state, Stage.EXEMPLARS, 30, None))
    assert due(Stage.EXEMPLARS, 30, ResumePoint(PhaseStateStub(1), Stage.EXEMPLARS, 30, None))
