"""The loop of chunks: the device has the next chunk before the host reads the last one, and each is read once."""

from typing import NamedTuple

import numpy as np
import pytest
from helpers import Events

from mnemonics_jax.exemplars import learning
from mnemonics_jax.exemplars.outer import OuterLog
from mnemonics_jax.phase import training
from mnemonics_jax.phase.chunk_loop import run_chunks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import ResumePoint, Stage, initial_state
from mnemonics_jax.phase.training import TrainLog
from mnemonics_jax.runtime.errors import NotFinite, NumbersError


class OnDevice:
    """An array that notes when the host reads it."""

    def __init__(self, values, note):
        self.values, self.note = values, note

    def __array__(self, *_, **__):
        self.note()
        return np.asarray(self.values)


class Log(NamedTuple):
    loss: OnDevice


class PhaseStub(NamedTuple):
    phase: int = 3


class Counting:
    """A stage of 11 steps in chunks of 4: its state is the number of steps taken, the loss of a step its number."""

    steps, chunk_steps = 11, 4
    not_finite = NotFinite("the loss", "step", "advice")

    def __init__(self, bad=()):
        self.story, self.bad = [], bad

    def begin(self, loop_state):
        return loop_state or 0

    def batches(self, first):
        for start in range(first, self.steps, self.chunk_steps):
            self.story.append(f"choose {start}")
            yield np.arange(start, start + self.chunk_steps)

    def run(self, state, batches):
        first = int(batches[0])
        assert state == first, "chunks follow each other"
        self.story.append(f"run {first}")
        loss = np.where(np.isin(batches, self.bad), np.nan, batches)
        return min(state + 4, self.steps), Log(OnDevice(loss, lambda: self.story.append(f"read {first}")))

    def progress(self, done, log):
        return {"loss": float(log["loss"].sum())}

    def event(self, first, done, progress):
        return "chunk", {"first": first, **progress}


class Noting(Events):
    def __init__(self, story):
        super().__init__()
        self.story, self.points = story, []

    def checkpoint(self, point):
        self.story.append(f"offer {point.done}")
        self.points.append(point)


def run(program, done=0):
    callbacks = Noting(program.story)
    state = run_chunks(program, ResumePoint(PhaseStub(), Stage.TRAINING, done, done or None), callbacks)
    return state, callbacks


def test_a_chunk_is_read_when_the_next_one_is_on_its_way():
    program = Counting()
    state, callbacks = run(program)
    assert state == 11
    assert program.story == [
        *("choose 0", "run 0", "choose 4", "run 4", "read 0", "offer 4"),
        *("choose 8", "run 8", "read 4", "offer 8", "read 8", "offer 11"),
    ]
    # Each point has the state after its own steps, not that of the chunk under way.
    assert [(point.done, point.loop_state) for point in callbacks.points] == [(4, 4), (8, 8), (11, 11)]
    # Idle steps of the last chunk are not shown.
    assert [values["loss"] for _, _, values in callbacks.events] == [0 + 1 + 2 + 3, 4 + 5 + 6 + 7, 8 + 9 + 10]
    assert [values["step"] for _, _, values in callbacks.events] == [4, 8, 11]


def test_it_goes_on_from_a_point_and_has_nothing_to_do_at_the_end():
    program = Counting()
    assert run(program, 8)[0] == 11
    assert program.story == ["choose 8", "run 8", "read 8", "offer 11"]
    ended = Counting()
    ended.steps = 8
    assert run(ended, 8)[0] == 8
    assert ended.story == []


def test_a_bad_number_ends_the_stage_and_no_point_after_it_is_offered():
    program = Counting(bad=[6])
    with pytest.raises(NumbersError, match="step 6 of 11"):
        run(program)
    assert [line for line in program.story if "offer" in line] == ["offer 4"]
    # A step that only fills up the last chunk does not count.
    assert run(Counting(bad=[11]))[0] == 11


@pytest.mark.parametrize("kind", ["herding", "mnemonics"])
def test_the_host_waits_for_the_device_once_a_chunk(tiny, monkeypatch, kind):
    """The losses that training and learning log are read once a chunk."""
    reads = {"train": 0, "learn": 0}

    def spied(module, name, log_type, key):
        original = getattr(module, name)

        def chunk(*args):
            *states, log = original(*args)

            def note():
                reads[key] += 1

            return *states, log_type(OnDevice(log[0], note), *log[1:])

        monkeypatch.setattr(module, name, chunk)

    spied(training, "train_chunk", TrainLog, "train")
    spied(learning, "learn_chunk", OuterLog, "learn")
    setup = tiny.setup("icarl", kind, train={"epochs": 2})
    run_phase(setup, initial_state(setup), Events())
    config = setup.config
    steps = config.train.steps(0, len(setup.stream.train_indices(0)))
    assert reads["train"] == -(-steps // config.train.chunk_steps)
    outer = config.exemplars.outer_steps if kind == "mnemonics" else 0
    assert reads["learn"] == -(-outer // (config.exemplars.outer_chunk if outer else 1))
