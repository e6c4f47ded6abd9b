"""A whole run: its files, its way back after an interruption, and that it says so when numbers go wrong."""

import dataclasses
import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from mnemonics_jax import phase as phases
from mnemonics_jax.checkpoint import Checkpoints
from mnemonics_jax.console import Display
from mnemonics_jax.errors import NumbersError, UserError
from mnemonics_jax.journal import Journal
from mnemonics_jax.run import run
from mnemonics_jax.state import initial_state, make_setup
from mnemonics_jax.training import all_finite

SUMMARY_KEYS = {
    "dataset",
    "method",
    "exemplars",
    "phases",
    "seed",
    "accuracy",
    "average_accuracy",
    "last_accuracy",
    "forgetting",
    "accuracy_matrix",
    "accuracy_exemplar_model",
    "memory_bytes",
    "compilations",
    "seconds",
    "backend",
}

# A process that kills itself when phase `last` is in the metrics, but before its checkpoint is on disk.
CHILD = """
import os, pickle, signal, sys
from pathlib import Path
from mnemonics_jax.checkpoint import Checkpoints
from mnemonics_jax.console import Display
from mnemonics_jax.run import run
config, out, last = pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]), int(sys.argv[3])
save = Checkpoints.save
def save_or_die(self, saved):
    if int(saved.point.state.phase) - 1 == last:
        self.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, saved)
Checkpoints.save = save_or_die
run(config, out, Display())
"""


def without(summary, *keys):
    return {key: value for key, value in summary.items() if key not in keys}


def latest(config, out):
    setup = make_setup(config)
    with Checkpoints(out / "checkpoints") as checkpoints:
        return checkpoints.latest(setup, initial_state(setup), pytest.fail)


def final_state(config, out):
    point = latest(config, out).point
    assert point.name == "0006-0-begin"
    return point.state


def assert_same_arrays(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def events(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tensorboard_scalars(out):
    """Every (tag, step, value), read from the record framing: length, its checksum, the event, its checksum."""
    found = []
    for path in sorted((out / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 16 + length
    return found


@pytest.fixture(scope="module")
def config(tiny):
    return tiny.config("icarl", "mnemonics", train={"epochs": 2})


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """An uninterrupted run: its folder and its summary."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, run(config, out, Display())


def test_a_run_writes_its_files(config, whole):
    out, summary = whole
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "lock",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "summary.json",
    }
    assert json.loads((out / "summary.json").read_text()) == summary
    assert json.loads((out / "config.json").read_text()) == json.loads(json.dumps(config.to_dict()))
    assert {event["event"] for event in events(out)} == {"train", "chosen", "outer", "exemplars", "phase"}


def test_the_summary_has_the_documented_keys_and_adds_up(whole):
    summary = whole[1]
    assert set(summary) >= SUMMARY_KEYS
    named = [summary[key] for key in ("dataset", "method", "exemplars", "phases", "seed")]
    assert named == ["digits", "icarl", "mnemonics", 5, 0]
    assert len(summary["accuracy"]) == len(summary["accuracy_exemplar_model"]) == 6
    assert all(0 <= value <= 100 for value in summary["accuracy"])
    assert summary["average_accuracy"] == pytest.approx(np.mean(summary["accuracy"]))
    assert summary["last_accuracy"] == summary["accuracy"][-1]
    matrix = summary["accuracy_matrix"]
    assert [sum(value is not None for value in row) for row in matrix] == [1, 2, 3, 4, 5, 6]
    assert summary["forgetting"] == pytest.approx(matrix[0][0] - matrix[-1][0])
    assert summary["memory_bytes"] == 10 * 4 * 8 * 8
    assert summary["memory_dtype"] == "uint8"
    assert summary["accuracy"][0] == pytest.approx(matrix[0][0])


def test_tensorboard_shows_the_same_numbers(whole):
    out, summary = whole
    shown = {(tag, step): value for tag, step, value in tensorboard_scalars(out)}
    for phase, value in enumerate(summary["accuracy"]):
        assert shown["phase/accuracy", phase] == pytest.approx(value, rel=1e-6)
    losses = [event for event in events(out) if event["event"] == "train"]
    assert losses
    for event in losses:
        assert shown[f"train/phase_{event['phase']}/loss", event["step"]] == pytest.approx(event["loss"], rel=1e-6)


def test_a_finished_run_returns_its_summary_at_once(config, whole, monkeypatch):
    monkeypatch.setattr("mnemonics_jax.run.run_phase", None)
    assert run(config, whole[0], Display()) == whole[1]


class Interrupting(Display):
    """Presses Ctrl-C when phase 3 starts to learn its exemplars."""

    def stage(self, phase, name, total):
        if (phase, name) == (3, "exemplars"):
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_like_the_uninterrupted_one(config, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, Interrupting())
    assert not (tmp_path / "summary.json").exists()
    resumed = run(config, tmp_path, Display())
    assert without(resumed, "seconds", "compilations") == without(whole[1], "seconds", "compilations")
    assert_same_arrays(final_state(config, tmp_path), final_state(config, whole[0]))
    timing = ("seconds", "compilations")
    assert [without(e, *timing) for e in events(tmp_path)] == [without(e, *timing) for e in events(whole[0])]


def test_a_killed_run_ends_like_the_uninterrupted_one(config, whole, tmp_path):
    path = tmp_path / "config.pickle"
    path.write_bytes(pickle.dumps(config))

    def child(out, last):
        command = [sys.executable, "-c", CHILD, str(path), str(out), str(last)]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)

    out = tmp_path / "run"
    assert child(out, 2).returncode == -signal.SIGKILL
    assert [e["phase"] for e in events(out) if e["event"] == "phase"] == [0, 1, 2]
    again = child(out, -1)
    assert again.returncode == 0, again.stderr
    assert "going on after phase 1" in again.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert without(summary, "seconds", "compilations") == without(whole[1], "seconds", "compilations")
    assert_same_arrays(final_state(config, out), final_state(config, whole[0]))
    assert [e["phase"] for e in events(out) if e["event"] == "phase"] == [0, 1, 2, 3, 4, 5]
    assert [e["phase"] for e in events(out) if e["event"] == "exemplars"] == [0, 1, 2, 3, 4, 5]
    assert child(tmp_path / "straight", -1).returncode == 0
    straight = json.loads((tmp_path / "straight" / "summary.json").read_text())
    assert without(summary, "seconds") == without(straight, "seconds")


def test_another_configuration_is_refused_with_what_differs(tiny, whole):
    other = tiny.config("icarl", "mnemonics", train={"epochs": 3}, exemplars={"outer_steps": 7})
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.name != "lock"}
    with pytest.raises(UserError) as caught:
        run(other, whole[0], Display())
    message = str(caught.value)
    assert "train.epochs: 2 there, 3 asked for" in message
    assert "exemplars.outer_steps: 6 there, 7 asked for" in message
    assert "batch_size" not in message
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.name != "lock"} == before


def test_the_problems_of_a_phase_have_curves_of_their_own(tmp_path):
    journal = Journal(tmp_path, [])
    for problem in (0, 1):
        journal.write({"event": "outer", "phase": 2, "step": 10, "problem": problem, "stage": "adjusting", "loss": 0.5})
    journal.close()
    assert tensorboard_scalars(tmp_path) == [("outer/phase_2/loss", 10, 0.5), ("outer/phase_2_1/loss", 10, 0.5)]


def test_the_seed_decides_everything(tiny, config, whole, tmp_path):
    same = run(config, tmp_path / "same", Display())
    assert without(same, "seconds", "compilations") == without(whole[1], "seconds", "compilations")
    assert_same_arrays(final_state(config, tmp_path / "same"), final_state(config, whole[0]))
    other = tiny.config("icarl", "mnemonics", seed=1, train={"epochs": 2})
    assert run(other, tmp_path / "other", Display())["accuracy"] != same["accuracy"]


def test_numbers_gone_wrong_stop_the_run(tiny, tmp_path):
    config = tiny.config("lwf", "random", train={"learning_rate": 1e20})
    with pytest.raises(NumbersError, match=r"phase 0: .*step \d+.*no checkpoint yet.*--train.learning-rate"):
        run(config, tmp_path, Display())
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("stage", ["train", "exemplars"])
def test_numbers_gone_wrong_name_the_last_good_checkpoint(tiny, tmp_path, monkeypatch, stage):
    train, solve = phases.train, phases.solve

    def diverging_train(program, settings, *rest, **named):
        spoilt = dataclasses.replace(settings, learning_rate=1e20)
        return train(program, spoilt if rest[-2] == 2 else settings, *rest, **named)

    def diverging_solve(program, models, *rest, **named):
        current = jax.tree.map(lambda leaf: np.float32(np.nan) * leaf, models.current)
        spoilt = models._replace(current=current)
        return solve(program, spoilt if rest[-3] == 2 else models, *rest, **named)

    monkeypatch.setattr(phases, *{"train": ("train", diverging_train), "exemplars": ("solve", diverging_solve)}[stage])
    config = tiny.config("lwf", "mnemonics", train={"epochs": 2})
    named = {"train": r"the training loss .*--train", "exemplars": r"exemplars: the outer loss .*--exemplars"}[stage]
    with pytest.raises(NumbersError, match=r"phase 2: .*step \d+ of .*last good checkpoint is .*/000") as caught:
        run(config, tmp_path, Display())
    assert re.search(named, str(caught.value))
    saved = latest(config, tmp_path)
    assert str(tmp_path / "checkpoints" / saved.point.name) in str(caught.value)
    assert int(saved.point.state.phase) == 2
    assert all_finite(saved.point)
    # Going on ends at the same place with the same message, and keeps the same checkpoint.
    with pytest.raises(NumbersError) as again:
        run(config, tmp_path, Display())
    assert str(again.value) == str(caught.value)
