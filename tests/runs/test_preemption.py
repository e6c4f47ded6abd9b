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
from mnemonics_jax.runtime.signals import interrupted_destructors, uninterrupted


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


EARLY = """
import os, signal, sys, time
from mnemonics_jax.runtime.errors import exit_status
from mnemonics_jax.runs.preemption import on_sigterm
with exit_status("program"):
    if sys.argv[1] == "after a run":
        with on_sigterm(lambda: "left"):
            pass
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("when", ["before a run", "after a run"])
def test_sigterm_outside_of_the_loop_has_the_same_status(when):
    with subprocess.Popen(
        [sys.executable, "-c", EARLY, when], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        child.stdout.readline()
        child.terminate()
        said = child.communicate(timeout=10)[1]
    assert (child.returncode, said) == (
        STOPPED,
        "program: stopped by SIGTERM; the same command goes on from what is saved\n",
    )


def test_ctrl_c_waits_for_the_end_of_what_must_not_be_cut():
    done = []

    def press():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        press()
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_a_checkpoint_begins_leaves_a_good_one(config, expected, tmp_path, monkeypatch):
    """Python would raise it in the pool's first `submit`, after which a second thread writes the same checkpoint."""
    start = threading.Thread.start

    def pressed(thread):
        start(thread)
        if thread.name.startswith("checkpoint"):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", pressed)
    with pytest.raises(KeyboardInterrupt):
        run_in_folder(config, tmp_path / "run", Display(), SaveConfig(8, 3, 0.0))
    monkeypatch.undo()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    run_in_folder(config, tmp_path / "run", Display(), SaveConfig(5, 2, 0.0))
    assert result(tmp_path / "run") == expected


def test_ctrl_c_inside_a_destructor_stops_the_program_all_the_same():
    class Archive:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def drop():
        with interrupted_destructors():
            archive = Archive()
            del archive
            time.sleep(5)

    before = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt):
        drop()
    assert sys.unraisablehook is before


IMPORTED = """
import signal, sys
from mnemonics_jax.runtime.errors import exit_status
class Pressing:
    def __set_name__(self, owner, name):
        signal.raise_signal(signal.SIGINT)
with exit_status("program"):
    if sys.argv[1] == "in a class":
        class Field:
            name = Pressing()
    exec("signal.raise_signal(signal.SIGINT)")
"""


@pytest.mark.parametrize("where", ["in a class", "in code made from text"])
def test_ctrl_c_during_imports_has_its_status(tmp_path, where):
    """Python makes another error of it in a class statement; code from text lets it end by the signal instead."""
    (tmp_path / "imported.py").write_text(IMPORTED)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"}
    child = subprocess.run(
        [sys.executable, "-m", "imported", where], capture_output=True, text=True, env=environment, check=False
    )
    assert (child.returncode, child.stderr) == (
        130,
        "program: interrupted; the same command goes on from the last checkpoint\n",
    )
