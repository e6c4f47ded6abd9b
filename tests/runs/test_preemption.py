"""Runs that end by a signal: SIGTERM saves and has a status of its own, SIGKILL loses nothing that was saved."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import TELLING, child_process, result, signal_at

from mnemonics_jax.runs.preemption import STOPPED, on_sigterm
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runtime.progress import Display


@pytest.fixture(scope="module")
def config(tiny):
    return tiny.config("icarl", "mnemonics", train={"epochs": 2}, stream={"phases": 1})


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    run_in_folder(config, out, Display())
    return result(out)


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGTERM, "phase 0 exemplars 3"),
        (signal.SIGKILL, "phase 1 training 16"),
    ],
)
def test_a_run_ended_by_a_signal_goes_on(config, expected, tmp_path, number, line):
    out = tmp_path / "run"
    program = f"{TELLING}\nrun_in_folder(argument, out, Telling(), save)"
    with child_process(program, config, tmp_path / "config.pickle", out) as child:
        signal_at(child, line, number)
        said = child.communicate(timeout=10)[1]
    if number == signal.SIGTERM:
        assert child.returncode == STOPPED
        assert "stopped by SIGTERM; the same command goes on from 000" in said
    else:
        assert child.returncode == -number
    assert list((out / "checkpoints").iterdir())
    run_in_folder(config, out, Display(), SaveConfig(5, 2, 0.0))
    assert result(out) == expected


def test_sigterm_does_not_wait_for_the_main_thread():
    """As for a compiled program that runs for minutes: the main thread does not come back from one long call in C."""
    program = (
        "import hashlib\nfrom mnemonics_jax.runs.preemption import on_sigterm\n"
        "with on_sigterm(lambda: 'left'):\n    print('in', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        child.stdout.readline()
        time.sleep(0.2)
        child.terminate()
        said = child.communicate(timeout=10)[1]
    assert (child.returncode, said) == (STOPPED, "mnemonics: left\n")


def test_a_handler_of_the_program_itself_stays():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with on_sigterm(lambda: pytest.fail("not ours")):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_nothing_is_left_behind():
    threads, handler = threading.active_count(), signal.getsignal(signal.SIGTERM)
    with on_sigterm(lambda: "left"):
        assert threading.active_count() == threads + 1
    assert (threading.active_count(), signal.getsignal(signal.SIGTERM)) == (threads, handler)
