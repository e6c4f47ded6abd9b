"""Runs that end by a signal: SIGTERM saves and has a status of its own, SIGKILL loses nothing that was saved."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from mnemonics_jax.checkpoint import SaveConfig
from mnemonics_jax.console import Display
from mnemonics_jax.interrupt import STOPPED, on_sigterm
from mnemonics_jax.run import run

CHILD = """
import pickle, sys
from pathlib import Path
from mnemonics_jax.checkpoint import SaveConfig
from mnemonics_jax.console import Display
from mnemonics_jax.run import run
class Telling(Display):
    def advance(self, done, **values):
        print(self._stage, done, flush=True)
run(pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]), Telling(), SaveConfig(8, 3, 0.0))
"""


@pytest.fixture(scope="module")
def config(tiny):
    return tiny.config("icarl", "mnemonics", train={"epochs": 2}, stream={"phases": 1})


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    run(config, out, Display())
    return result(out)


def result(out):
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    values = [json.loads((out / "summary.json").read_text()), *events]
    return [{k: v for k, v in value.items() if k not in ("seconds", "compilations")} for value in values]


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGTERM, "phase 0 exemplars 3"),
        (signal.SIGKILL, "phase 1 training 16"),
    ],
)
def test_a_run_ended_by_a_signal_goes_on(config, expected, tmp_path, number, line):
    path, out = tmp_path / "config.pickle", tmp_path / "run"
    path.write_bytes(pickle.dumps(config))
    command = [sys.executable, "-c", CHILD, str(path), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        for told in child.stdout:
            if told.strip() == line:
                child.send_signal(number)
                break
        else:
            pytest.fail(f"never told {line!r}: {child.stderr.read()}")
        said = child.communicate(timeout=10)[1]
    if number == signal.SIGTERM:
        assert child.returncode == STOPPED
        assert "stopped by SIGTERM; the same command goes on from 000" in said
    else:
        assert child.returncode == -number
    assert list((out / "checkpoints").iterdir())
    run(config, out, Display(), SaveConfig(5, 2, 0.0))
    assert result(out) == expected


def test_sigterm_does_not_wait_for_the_main_thread():
    """As for a compiled program that runs for minutes: the main thread does not come back from one long call in C."""
    program = (
        "import hashlib\nfrom mnemonics_jax.interrupt import on_sigterm\n"
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
