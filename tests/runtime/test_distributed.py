"""Two real processes on this machine, joined by gloo: what they compute, what a kill does, what they refuse."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from mnemonics_jax.runtime.distributed import Cluster, connect
from mnemonics_jax.runtime.errors import UserError

SETTINGS = (
    *("--method", "icarl", "--phases", "1", "--exemplars.per-class", "4", "--exemplars.unroll-length", "3"),
    *("--train.epochs", "1", "--train.later-epochs", "1", "--net.widths", "8", "8"),
)
HERDING = ("--exemplars", "herding")
LEARNED = (
    *("--exemplars", "mnemonics", "--exemplars.outer-steps", "2", "--exemplars.outer-chunk", "2"),
    *("--exemplars.outer-batch", "32"),
)
TIMING = ("seconds", "compilations")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(out, number, port, *words, kind=HERDING):
    flags = ("--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process-id", str(number))
    command = [sys.executable, "-m", "mnemonics_jax", "run", "digits", *SETTINGS, *kind, "--out", str(out), *words]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "--distributed", *flags], env=os.environ, **pipe)


def both(out, *words, kind=HERDING):
    """Starts both processes and waits for them: their exit statuses, outputs and errors."""
    port = free_port()
    children = [start(out, number, port, *words, kind=kind) for number in (0, 1)]
    outputs = [child.communicate(timeout=300) for child in children]
    return [child.returncode for child in children], *zip(*outputs, strict=True)


def summary(out):
    found = json.loads((out / "summary.json").read_text())
    return {key: value for key, value in found.items() if key not in TIMING}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of two processes: its folder, and what each process printed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    statuses, printed, errors = both(out)
    assert statuses == [0, 0], errors
    return out, printed, errors


def compare(two, out, kind):
    command = [sys.executable, "-m", "mnemonics_jax", "run", "digits", *SETTINGS, *kind, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    one, two = summary(out), summary(two)
    assert (one.pop("devices"), two.pop("devices")) == (1, 2)
    assert [found["record"].pop("arithmetic")[0]["devices"] for found in (one, two)] == [1, 2]
    assert two == one


def test_two_processes_compute_what_one_computes(whole, tmp_path):
    compare(whole[0], tmp_path / "one", HERDING)


@pytest.mark.slow
def test_two_processes_learn_the_exemplars_that_one_learns(tmp_path):
    statuses, _, errors = both(tmp_path / "two", kind=LEARNED)
    assert statuses == [0, 0], errors
    compare(tmp_path / "two", tmp_path / "one", LEARNED)


def test_only_process_0_writes(whole):
    out, printed, errors = whole
    assert "average accuracy" in printed[0]
    assert "accuracy" not in printed[1]
    assert "phase 1: 10 classes" in errors[0]
    assert "phase" not in errors[1]
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [event["phase"] for event in events if event["event"] == "phase"] == [0, 1]
    assert len(list((out / "tensorboard").iterdir())) == 1


OFTEN = ("--save.every-steps", "1", "--save.min-seconds", "0")


def strike(out, act):
    """Starts both processes, saving often, and does `act` to them once there is a checkpoint inside a phase."""
    port = free_port()
    children = [start(out, number, port, *OFTEN) for number in (0, 1)]
    try:
        end = time.monotonic() + 240
        while not any(re.search(r"-training-\d+-\d+$", path.name) for path in (out / "checkpoints").glob("*")):
            assert time.monotonic() < end
            assert all(child.poll() is None for child in children), [child.communicate() for child in children]
            time.sleep(0.02)
        act(children)
    finally:
        # What is left of a job that lost a process is ended by whoever started it.
        for child in children:
            child.kill()
            child.communicate()
    assert not (out / "summary.json").exists()


def goes_on(out, whole):
    statuses, _, errors = both(out)
    assert statuses == [0, 0], errors
    assert "going on from phase" in errors[0]
    assert summary(out) == summary(whole[0])


def kill(number):
    """Kills one of two processes: the other one says so in one line, and can go on."""

    def act(children):
        children[number].send_signal(signal.SIGKILL)
        error = children[1 - number].communicate(timeout=60)[1]
        assert children[1 - number].returncode == 75, error
        (line,) = [line for line in error.splitlines() if line.startswith("mnemonics: ")]
        assert f"process {number} on " in line
        assert " is gone; the same command" in line
        assert "Traceback" not in error

    return act


def test_the_peer_of_a_killed_process_says_so_and_both_go_on_to_the_same_summary(whole, tmp_path):
    strike(tmp_path, kill(1))
    goes_on(tmp_path, whole)


@pytest.mark.slow
def test_the_peer_of_a_killed_process_0_says_so(tmp_path):
    strike(tmp_path, kill(0))


@pytest.mark.slow
def test_processes_told_to_end_go_on_to_the_same_summary(whole, tmp_path):
    def end(children):
        for child in children:
            child.send_signal(signal.SIGTERM)
        assert [child.wait(10) for child in children] == [75, 75]

    strike(tmp_path, end)
    goes_on(tmp_path, whole)


@pytest.mark.slow
def test_processes_with_different_settings_are_refused(tmp_path):
    port = free_port()
    children = [start(tmp_path / "run", i, port, "--seed", str(i), "--train.weight-decay", "0") for i in (0, 1)]
    errors = [child.communicate(timeout=200)[1] for child in children]
    assert [child.returncode for child in children] == [2, 2]
    for error in errors:
        assert "process 1 has other settings than process 0: seed 1 (there 0)" in error
        assert "weight_decay" not in error


@pytest.mark.slow
def test_a_problem_of_process_0_ends_both(whole):
    statuses, _, errors = both(whole[0], "--train.batch-size", "32")
    assert statuses == [2, 2]
    assert all("train.batch_size: 64 there, 32 asked for" in error for error in errors)


def test_a_coordinator_that_does_not_answer_is_named(tmp_path):
    port = free_port()
    began = time.monotonic()
    child = start(tmp_path, 1, port, "--connect-timeout", "1")
    error = child.communicate(timeout=100)[1]
    assert child.returncode == 2
    assert f"--coordinator 127.0.0.1:{port} did not answer for 1 s" in error
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coordinator": "a:1"}, "needs --distributed"),
        ({"distributed": True, "coordinator": "a:1"}, "--processes, --process-id missing"),
        ({"distributed": True, "coordinator": "a", "processes": 2, "process_id": 0}, "HOST:PORT"),
        ({"distributed": True, "coordinator": "a:0", "processes": 2, "process_id": 0}, "HOST:PORT"),
        ({"distributed": True, "coordinator": "a:1", "processes": 2, "process_id": 2}, "choose from 0 to 1"),
        (
            {"distributed": True, "coordinator": "a:1", "processes": 2, "process_id": 1, "connect_timeout": 0},
            "--connect-timeout 0: has to be at least 1",
        ),
    ],
)
def test_contradictory_flags_are_explained(settings, message):
    with pytest.raises(UserError, match=message):
        connect(Cluster(**settings))
