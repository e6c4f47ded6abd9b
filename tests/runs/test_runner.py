"""A whole run: its files, its way back after an interruption, and that it says so when numbers go wrong."""

import dataclasses
import json
import re
import signal
import struct

import jax
import numpy as np
import pytest
from helpers import assert_same_arrays, child_process, events, latest, without
from tensorboardX.proto import event_pb2

from mnemonics_jax.config.presets import make_config
from mnemonics_jax.exemplars import device_memory
from mnemonics_jax.phase import exemplar_level, model_level
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.runs.folder import check_folder, claim_folder
from mnemonics_jax.runs.metrics_log import MetricsLog
from mnemonics_jax.runs.record import Record, read_record, record_of
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.errors import NumbersError, UserError
from mnemonics_jax.runtime.finite import all_finite
from mnemonics_jax.runtime.progress import Display

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
    "average_forgetting",
    "backward_transfer",
    "forgetting_exemplar_model",
    "average_forgetting_exemplar_model",
    "backward_transfer_exemplar_model",
    "accuracy_matrix",
    "accuracy_exemplar_model",
    "memory_bytes",
    "compilations",
    "seconds",
    "backend",
}

# A process that kills itself when phase `last` is in the metrics, but before its checkpoint is on disk.
KILLED = """
import os, signal
from mnemonics_jax.runs.checkpoint import CheckpointFolder
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.runs.runner import run_in_folder
out, last = words
save = CheckpointFolder.save
def save_or_die(self, saved):
    if int(saved.resume_point.state.phase) - 1 == int(last):
        self.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, saved)
CheckpointFolder.save = save_or_die
from pathlib import Path
run_in_folder(argument, Path(out), Display())
"""


def final_state(config, out):
    """The state after the last phase, which is the start of a phase that there is none of."""
    point = latest(config, out).resume_point
    assert point.name == "0006-0-begin"
    return point.state


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
    return out, run_in_folder(config, out, Display())


def test_a_run_writes_its_files(config, whole):
    out, summary = whole
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "lock",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "summary.json",
        "manifest.json",
    }
    assert json.loads((out / "summary.json").read_text()) == summary
    # What is left to the device is in the file as it was found.
    found = dataclasses.replace(config, exemplars=dataclasses.replace(config.exemplars, group_classes=0))
    plain = json.loads((out / "config.json").read_text())
    assert plain.pop("record") == summary["record"]
    assert plain == json.loads(json.dumps(found.to_dict()))
    assert summary["group_classes"] == 0
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
    fallen = [max(row[group] for row in matrix[group:-1]) - matrix[-1][group] for group in range(5)]
    assert summary["average_forgetting"] == pytest.approx(sum(fallen) / 5)
    changed = [matrix[-1][group] - matrix[group][group] for group in range(5)]
    assert summary["backward_transfer"] == pytest.approx(sum(changed) / 5)
    # Θᴱ has a matrix of its own, which is not in the summary.
    assert summary["average_forgetting_exemplar_model"] >= -summary["backward_transfer_exemplar_model"] - 1e-9
    assert summary["memory_bytes"] == 10 * 4 * 8 * 8
    assert summary["memory_dtype"] == "uint8"
    assert summary["accuracy"][0] == pytest.approx(matrix[0][0])


def test_tensorboard_shows_the_same_numbers(whole):
    out, summary = whole
    shown = {(tag, step): value for tag, step, value in tensorboard_scalars(out)}
    for phase, value in enumerate(summary["accuracy"]):
        assert shown["phase/accuracy", phase] == pytest.approx(value, rel=1e-6)
    losses = [event for event in events(out) if event["event"] == "train"]
    assert {event["phase"] for event in losses} == set(range(6))
    before = dict.fromkeys(range(6), 0)
    for event in losses:
        later = range(event["phase"] + 1, 6)
        before |= dict.fromkeys(later, before[event["phase"]] + event["step"])
        step = before[event["phase"]] + event["step"]
        assert shown["train/loss", step] == pytest.approx(event["loss"], rel=1e-6), "one curve over all phases"
    for key in ("average_accuracy", "forgetting", "memory_bytes"):
        assert shown[f"result/{key}", 0] == pytest.approx(summary[key], rel=1e-6)
    assert ("_hparams_/session_start_info", 0) in shown
    assert ("exemplars", 0) in shown


def test_tensorboard_has_the_settings_as_hyperparameters(config, whole):
    (path,) = (whole[0] / "tensorboard").iterdir()
    text = path.read_bytes()
    for name in (b"exemplars.unroll_length", b"train.epochs", b"result/average_accuracy", b"_hparams_/experiment"):
        assert name in text


def test_a_finished_run_returns_its_summary_at_once(config, whole, monkeypatch):
    monkeypatch.setattr("mnemonics_jax.runs.runner.run_phase", None)
    assert run_in_folder(config, whole[0], Display()) == whole[1]


def test_an_interrupted_run_ends_like_the_uninterrupted_one(config, whole, tmp_path, interrupt):
    interrupt(config, tmp_path, phase=3, name="exemplars")
    assert not (tmp_path / "summary.json").exists()
    resumed = run_in_folder(config, tmp_path, Display())
    assert without(resumed) == without(whole[1])
    assert_same_arrays(final_state(config, tmp_path), final_state(config, whole[0]))
    assert [without(e) for e in events(tmp_path)] == [without(e) for e in events(whole[0])]


def test_a_killed_run_ends_like_the_uninterrupted_one(config, whole, tmp_path):
    def child(out, last):
        with child_process(KILLED, config, tmp_path / "config.pickle", out, last) as process:
            said = process.communicate()[1]
        return process.returncode, said

    out = tmp_path / "run"
    assert child(out, 2)[0] == -signal.SIGKILL
    assert [e["phase"] for e in events(out) if e["event"] == "phase"] == [0, 1, 2]
    status, said = child(out, -1)
    assert status == 0, said
    assert "going on after phase 1" in said
    summary = json.loads((out / "summary.json").read_text())
    assert without(summary) == without(whole[1])
    assert_same_arrays(final_state(config, out), final_state(config, whole[0]))
    assert [e["phase"] for e in events(out) if e["event"] == "phase"] == [0, 1, 2, 3, 4, 5]
    assert [e["phase"] for e in events(out) if e["event"] == "exemplars"] == [0, 1, 2, 3, 4, 5]
    assert child(tmp_path / "straight", -1)[0] == 0
    straight = json.loads((tmp_path / "straight" / "summary.json").read_text())
    assert summary | {"seconds": 0} == straight | {"seconds": 0}


def test_another_configuration_is_refused_with_what_differs(tiny, whole):
    other = tiny.config("icarl", "mnemonics", train={"epochs": 3}, exemplars={"outer_steps": 7})
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.name != "lock"}
    with pytest.raises(UserError) as caught:
        run_in_folder(other, whole[0], Display())
    message = str(caught.value)
    assert "train.epochs: 2 there, 3 asked for" in message
    assert "exemplars.outer_steps: 6 there, 7 asked for" in message
    assert "batch_size" not in message
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.name != "lock"} == before


@pytest.fixture
def memory_for(monkeypatch):
    """Gives the device memory for learning so many classes of a setup at a time."""

    def give(setup, classes):
        settings, shape = setup.config.exemplars, setup.stream.dataset.image_shape
        needed = device_memory.learning_bytes(settings, setup.net, classes * settings.per_class, shape)
        monkeypatch.setattr(device_memory, "device_bytes", lambda: needed / 0.75 + 1)

    return give


def test_a_run_keeps_the_groups_that_it_began_with(tiny, tmp_path, interrupt, memory_for):
    short = {"stream": {"phases": 1}, "train": {"epochs": 1}}
    config = tiny.config("lwf", "mnemonics", **short, exemplars={"inner_batch": 8})
    given = tiny.config("lwf", "mnemonics", **short, exemplars={"inner_batch": 8, "group_classes": 4})
    out, straight = tmp_path / "out", tmp_path / "straight"
    setup = make_setup(config)
    memory_for(setup, 4)
    interrupt(config, out, phase=1, name="exemplars")
    assert json.loads((out / "config.json").read_text())["exemplars"]["group_classes"] == 4
    memory_for(setup, 3)
    with pytest.raises(UserError, match=r"in groups of 4 classes, which takes .* --exemplars\.group-classes 4"):
        run_in_folder(config, out, Display())
    # With more memory the default would be all classes at once.
    memory_for(setup, 100)
    summary = run_in_folder(config, out, Display())
    assert summary["group_classes"] == 4
    assert without(run_in_folder(given, straight, Display())) == without(summary)
    assert_same_arrays(latest(given, out).resume_point.state, latest(given, straight).resume_point.state)
    assert (out / "config.json").read_bytes() == (straight / "config.json").read_bytes()
    # Other groups are another run; none is given means those of the run.
    check_folder(out, config)
    other = dataclasses.replace(config, exemplars=dataclasses.replace(config.exemplars, group_classes=0))
    with pytest.raises(UserError, match=r"exemplars\.group_classes: 4 there, 0 asked for"):
        check_folder(out, other)


def test_a_run_that_learns_nothing_has_no_groups(tiny, tmp_path):
    config = tiny.config("lwf", "herding", stream={"phases": 1}, train={"epochs": 1})
    assert run_in_folder(config, tmp_path, Display())["group_classes"] is None
    plain = json.loads((tmp_path / "config.json").read_text())
    assert read_record(plain) == record_of(make_setup(config), begins=True)
    del plain["record"]
    assert plain == json.loads(json.dumps(config.to_dict()))


def test_the_recipe_is_part_of_what_makes_two_runs_the_same(tmp_path):
    claim_folder(tmp_path, make_config("digits"), Record("", {}))
    assert json.loads((tmp_path / "config.json").read_text())["recipe"] == "default"
    with pytest.raises(UserError, match="recipe: 'default' there, 'paper' asked for"):
        check_folder(tmp_path, make_config("digits", recipe="paper"))


def test_the_problems_of_a_phase_have_curves_of_their_own(tmp_path):
    metrics_log = MetricsLog(tmp_path, [])
    for problem in (0, 1):
        metrics_log.write(
            {"event": "outer", "phase": 2, "step": 10, "problem": problem, "stage": "adjusting", "loss": 0.5}
        )
    metrics_log.close()
    assert tensorboard_scalars(tmp_path) == [("outer/loss", 10, 0.5), ("outer_1/loss", 10, 0.5)]


def test_the_steps_of_a_phase_follow_those_of_the_phase_before(tmp_path):
    steps = [(0, 5), (0, 10), (1, 5), (2, 5), (2, 15)]
    logged = [{"event": "train", "phase": phase, "step": step, "loss": 1.0} for phase, step in steps]
    resumed = MetricsLog(tmp_path, logged[:3])
    for event in logged[3:]:
        resumed.write(event)
    resumed.close()
    assert [step for _, step, _ in tensorboard_scalars(tmp_path)] == [5, 10, 15, 20, 30]


def test_the_seed_decides_everything(tiny, config, whole, tmp_path):
    same = run_in_folder(config, tmp_path / "same", Display())
    assert without(same) == without(whole[1])
    assert_same_arrays(final_state(config, tmp_path / "same"), final_state(config, whole[0]))
    other = tiny.config("icarl", "mnemonics", seed=1, train={"epochs": 2})
    assert run_in_folder(other, tmp_path / "other", Display())["accuracy"] != same["accuracy"]


def test_numbers_gone_wrong_stop_the_run(tiny, tmp_path):
    config = tiny.config("lwf", "random", train={"learning_rate": 1e20})
    with pytest.raises(NumbersError, match=r"phase 0: .*step \d+.*no checkpoint yet.*--train.learning-rate"):
        run_in_folder(config, tmp_path, Display())
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("stage", ["train", "exemplars"])
def test_numbers_gone_wrong_name_the_last_good_checkpoint(tiny, tmp_path, monkeypatch, stage):
    training_loop, models_of = model_level.TrainingLoop, exemplar_level.models_of

    def diverging(program, settings, samples, start, context, streams):
        spoilt = dataclasses.replace(settings, learning_rate=1e20)
        return training_loop(program, spoilt if streams.phase == 2 else settings, samples, start, context, streams)

    def spoilt_models(state):
        models = models_of(state)
        current = jax.tree.map(lambda leaf: np.float32(np.nan) * leaf, models.current)
        return models._replace(current=current) if state.phase == 2 else models

    if stage == "train":
        monkeypatch.setattr(model_level, "TrainingLoop", diverging)
    else:
        monkeypatch.setattr(exemplar_level, "models_of", spoilt_models)
    config = tiny.config("lwf", "mnemonics", train={"epochs": 2})
    named = {"train": r"the training loss .*--train", "exemplars": r"exemplars: the outer loss .*--exemplars"}[stage]
    with pytest.raises(NumbersError, match=r"phase 2: .*step \d+ of .*last good checkpoint is .*/000") as caught:
        run_in_folder(config, tmp_path, Display())
    assert re.search(named, str(caught.value))
    saved = latest(config, tmp_path)
    assert str(tmp_path / "checkpoints" / saved.resume_point.name) in str(caught.value)
    assert int(saved.resume_point.state.phase) == 2
    assert all_finite(saved.resume_point)
    # Going on ends at the same place with the same message, and keeps the same checkpoint.
    with pytest.raises(NumbersError) as again:
        run_in_folder(config, tmp_path, Display())
    assert str(again.value) == str(caught.value)
