"""What the user sees of a run: bars on a terminal, lines with time stamps in a log."""

import io
import re

import jax
import jax.numpy as jnp
import pytest
from helpers import Listening
from rich.console import Console

from mnemonics_jax.runs.facts import planned_steps, run_facts
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime import compile_cache, progress
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.sweeps.job import Job
from mnemonics_jax.sweeps.jobs import run_jobs

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets, in `clock[0]`."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def log(**options):
    """A display that writes to a file, and the file."""
    file = io.StringIO()
    return Display(Console(file=file, width=200), **options), file


def screen(**options):
    """A display on a terminal, and what is written to it."""
    file = io.StringIO()
    return Display(Console(file=file, width=200, force_terminal=True), **options), file


def bars(display):
    """The bars as they stand: description, share done, count and state of each."""
    return [
        (task.description, round(task.completed / task.total, 3), task.fields["count"], task.fields["state"])
        for task in display._bars.tasks
    ]


def phase(number):
    return {"phase": number, "seen_classes": 5, "accuracy": 90.0, "seconds": 3.0}


def test_a_log_has_a_start_line_and_a_line_for_each_phase(clock):
    display, file = log()
    display.header({"data": "digits", "folder": "runs/[a]"})
    display.plan([10, 10])
    for number in (0, 1):
        display.stage(number, "training", 10)
        for step in range(1, 11):
            clock[0] += 5
            display.advance(step, loss=0.5)
        display.phase_done(phase(number))
    lines = file.getvalue().splitlines()
    assert [re.sub(f"^{STAMP}", "", line) for line in lines] == [
        "data: digits; folder: runs/[a]",
        "phase 0: 5 classes, accuracy 90.00 % (3.0 s)",
        "phase 1: 5 classes, accuracy 90.00 % (3.0 s)",
    ]
    assert all(re.match(STAMP, line) for line in lines)


@pytest.mark.parametrize(("verbose", "seconds"), [(True, 10), (False, 600)])
def test_a_long_stage_is_told_of_in_a_log(clock, verbose, seconds):
    display, file = log(verbose=verbose)
    display.stage(0, "training", 100)
    clock[0] += seconds - 1
    display.advance(49, loss=0.5)
    assert not file.getvalue()
    clock[0] += 1
    display.advance(50, loss=0.5)
    left = {10: "10 s left", 600: "10 min 00 s left"}[seconds]
    assert file.getvalue().rstrip().endswith(f"phase 0 training: step 50 of 100, loss 0.5, {left}")


def test_a_bar_is_about_the_whole_run(clock):
    display, _ = screen()
    with display:
        display.plan([30, 10])
        display.stage(0, "training", 20)
        clock[0] += 10
        display.advance(20, loss=1.0)
        whole, stage = bars(display)
        assert whole == ("whole run", 0.5, "phase 0 of 1", "about 10 s left")
        assert stage == ("phase 0 training", 1.0, "20/20", "loss 1  0 s left")
        # A stage after another of the same phase goes on where that one ended, and stays within its phase.
        display.stage(0, "exemplars", 5)
        display.advance(5)
        assert bars(display)[0][1] == 0.625
        display.stage(0, "gate", 500)
        display.advance(500)
        assert bars(display)[0][1] == 0.75
        display.stage(1, "training", 10)
        display.advance(5)
        assert bars(display)[0][1:3] == (0.875, "phase 1 of 1")


def test_a_run_that_goes_on_counts_only_its_own_time(clock):
    display, _ = screen()
    with display:
        display.plan([10, 10, 10, 10])
        display.stage(2, "training", 10)
        clock[0] += 30
        display.advance(5)
        assert bars(display)[0] == ("whole run", 0.625, "phase 2 of 3", "about 1 min 30 s left")


def test_several_runs_have_a_line_and_a_share_of_the_bar_each(clock):
    summary = {"average_accuracy": 91.0, "last_accuracy": 80.0, "seconds": 65.0}
    display, file = screen()
    with display:
        display.many(4)
        display.begin("[1/4] a")
        display.run_done(summary, before=True)
        display.begin("[2/4] b")
        display.plan([10, 10])
        display.stage(0, "training", 10)
        display.phase_done(phase(0))
        display.note("going on")
        clock[0] += 10
        display.advance(10)
        assert bars(display)[0] == ("all runs", 0.375, "1/4", "about 50 s left")
        display.warn("careful")
        display.run_done(summary)
        display.begin("[3/4] c")
        display.run_done(None)
        assert bars(display)[0][1:3] == (0.75, "3/4")
    said = file.getvalue()
    assert "[2/4] b: average accuracy 91.00 %, last 80.00 % (1 min 05 s)" in said
    assert "[2/4] b: warning: careful" in said
    assert "accuracy 90.00" not in said
    assert "going on" not in said
    assert "[1/4] a" not in said
    told, file = log(verbose=True)
    told.many(4)
    told.phase_done(phase(0))
    assert "accuracy 90.00 %" in file.getvalue()


def test_a_notebook_has_lines_without_stamps_and_bars_where_widgets_are(monkeypatch):
    shown = []
    console = Console(force_jupyter=True)
    monkeypatch.setattr(console, "print", lambda text, **_: shown.append(text))
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    with Display(console) as display:
        assert display._bars is None
        display.header({"data": "digits"})
        display.say("going on")
    assert shown[1] == "going on"
    assert shown[0].row_count == 1


def test_compiling_is_shown_while_it_lasts(monkeypatch):
    display, _ = screen()
    with display:
        display.plan([10])
        display.stage(0, "training", 10)
        column = display._bars.columns[-1]
        shown = []

        def watching(event, duration, **_):
            shown.append((event.split("/")[-1], [column.render(task).plain for task in display._bars.tasks]))

        # Called after the one of `compile_cache`, which was registered first.
        jax.monitoring.register_event_duration_secs_listener(watching)
        try:
            jax.jit(lambda x: x * 3 + 1)(jnp.ones(7)).block_until_ready()
        finally:
            jax.monitoring.unregister_event_duration_listener(watching)
        states = dict(shown)
        assert states["jaxpr_to_mlir_module_duration"][1] == "compiling …"
        assert states["backend_compile_duration"][1] == ""
    assert not compile_cache.is_compiling()


def test_a_run_shows_what_it_is_and_how_far_it_is(tiny, tmp_path):
    config = tiny.config("icarl", "mnemonics", train={"epochs": 1, "balanced_steps": 8}, stream={"phases": 1})
    display, file = screen()
    shares = []
    display.advance = lambda done, **values: (Display.advance(display, done, **values), shares.append(bars(display)[0]))
    with display:
        run_in_folder(config, tmp_path / "run", display)
    said = file.getvalue()
    for fact in ("digits, 1,438 training and 359 test images of 8×8×1, classes 5 + 1 × 5", "mnemonics, 4 a class"):
        assert fact in said
    assert str(tmp_path / "run") in said
    amounts = [share[1] for share in shares]
    assert amounts == sorted(amounts)
    assert 0.9 < amounts[-1] <= 1


def test_the_header_tells_data_method_exemplars_device_and_folder(tiny, tmp_path):
    facts = run_facts(tiny.setup("finetune", "random", stream={"phases": 1}), tmp_path)
    assert set(facts) == {"data", "method", "exemplars", "device", "folder"}
    assert facts["exemplars"] == "none"
    assert facts["device"].endswith(", float32")


def test_steps_are_planned_by_phase(tiny):
    setup = tiny.setup("lwf", "mnemonics", train={"epochs": 1, "balanced_steps": 7}, stream={"base": 8, "phases": 1})
    first, second = planned_steps(setup)
    fresh = [len(setup.stream.train_indices(phase)) for phase in (0, 1)]
    assert first == -(-fresh[0] // 64) + 6
    assert second == -(-(fresh[1] + 8 * 4) // 64) + 7 + 6


def test_a_comparison_tells_one_line_a_run(tiny, tmp_path):
    jobs = [Job(name, tiny.config("lwf", "random", train={"epochs": 1}, stream={"phases": 1})) for name in ("a", "b")]
    display = Listening(verbose=False)
    run_jobs(jobs, tmp_path, display)
    assert [re.sub(r"\d+\.\d\d %|\d+ s", "#", line) for line in display.titled[1:]] == [
        f"[{number}/2] {name}: average accuracy #, last # (#)" for number, name in ((1, "a"), (2, "b"))
    ]
    assert display.titled[0].startswith(f": runs: 2 in {tmp_path}; data: digits")
    again = Listening(verbose=False)
    run_jobs(jobs, tmp_path, again)
    assert len(again.said) == 1
    assert "2 of them finished" in again.said[0]
