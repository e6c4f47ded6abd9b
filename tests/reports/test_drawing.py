"""Drawing in processes: results in order, failures as words, one thread each."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from helpers import Listening
from report_helpers import double

from mnemonics_jax.reports.drawing import Failure, Task, run_tasks

TASKS = [Task(f"task {number}", partial(double, number)) for number in range(4)]


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_give_their_results_in_order_and_a_failure_stays_alone(workers):
    results = run_tasks(TASKS, "tasks", Listening(), workers)
    assert results[2] == Failure("two is not liked")
    assert [result[0] for result in results if not isinstance(result, Failure)] == [0, 2, 6]
    if workers > 1:
        assert {result[1] for result in results if not isinstance(result, Failure)} == {"1"}
        assert os.getpid() not in {result[2] for result in results if not isinstance(result, Failure)}


def test_a_process_that_dies_costs_figures_and_not_the_report():
    display = Listening()
    results = run_tasks([Task("dies", partial(os._exit, 1)), *TASKS], "tasks", display, 2)
    assert isinstance(results[0], Failure)
    assert [line for line in display.said if "ended without a word" in line] == [
        "warning: a process of the report ended without a word; left out: dies"
    ]
    assert [result[0] for result in results[1:] if not isinstance(result, Failure)] == [0, 2, 6]


def test_a_full_disk_is_told_as_one():
    def full():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run_tasks([Task("full", full)], "tasks", Listening(), 1)


KILLED = """
import sys
from functools import partial
sys.path.insert(0, sys.argv[1])
from helpers import Listening
from mnemonics_jax.reports.drawing import Task, run_tasks
from report_helpers import tell_and_wait
tasks = [Task(f"task {number}", partial(tell_and_wait, sys.argv[2], number)) for number in range(2)]
run_tasks(tasks, "tasks", Listening(), 2)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(done):
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_processes_end_with_a_report_that_is_killed(tmp_path):
    """Those of joblib would wait for its next task for ever."""
    tests = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tests), str(tmp_path)]) as report:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        report.send_signal(signal.SIGKILL)
    until(lambda: not any(alive(int(path.name)) for path in tmp_path.iterdir()))
