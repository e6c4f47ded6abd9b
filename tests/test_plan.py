"""Many runs in one process: checked before the first, shared where they are the same, and none ends the others."""

import dataclasses
import json

import pytest

from mnemonics_jax import data, plan
from mnemonics_jax import phase as phases
from mnemonics_jax.compare import compare
from mnemonics_jax.console import Display
from mnemonics_jax.errors import NumbersError, RunsFailedError, UserError
from mnemonics_jax.plan import Job, execute
from mnemonics_jax.run import run

SHORT = {"stream": {"phases": 1}, "train": {"epochs": 2}}


class Listening(Display):
    """Keeps what the user would read."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, message):
        self.said.append(f"{self.title}: {message}")


def without(summary, *more):
    return {k: v for k, v in summary.items() if k not in ("seconds", "compilations", "shared_first_phase", *more)}


@pytest.fixture
def loads(monkeypatch):
    """The configurations whose data were loaded."""
    loaded, load = [], data.load

    def noting(config):
        loaded.append(config)
        return load(config)

    monkeypatch.setattr(data, "load", noting)
    return loaded


def test_jobs_share_data_and_first_phase_and_end_as_alone(tiny, tmp_path, loads):
    configs = {name: tiny.config(name, "random", **SHORT) for name in ("lwf", "icarl", "lucir")}
    display = Listening()
    outcome = execute([Job(name, config) for name, config in configs.items()], tmp_path, display)
    assert (list(outcome.summaries), outcome.failures, outcome.status) == (list(configs), {}, 0)
    assert len(loads) == 1
    assert [summary["shared_first_phase"] is not None for summary in outcome.summaries.values()] == [False, True, False]
    assert any(line.startswith("[2/3] icarl: phase 1: 10 classes") for line in display.said)
    for name, config in configs.items():
        assert json.loads((tmp_path / name / "summary.json").read_text()) == outcome.summaries[name]
        assert without(outcome.summaries[name]) == without(run(config, tmp_path / "alone" / name, Display()))
    # Again: everything is finished, and not even the data is needed.
    loads.clear()
    assert execute([Job(name, config) for name, config in configs.items()], tmp_path, Display()) == outcome
    assert not loads


def test_other_data_take_the_place_of_those_before(tiny, tmp_path, loads, monkeypatch):
    monkeypatch.setattr(plan, "run", lambda config, *_, load, **__: {"images": len(load(config.data).train_images)})
    kinds = {str(n): tiny.config("lwf", "random", **SHORT, data={"num_classes": n}) for n in (10, 8)}
    execute([Job(name, config) for name, config in kinds.items()], tmp_path, Display())
    # Once each to check the jobs, and again to run them: one data set at most is kept.
    assert [config.num_classes for config in loads] == [10, 8, 10, 8]


def test_every_job_is_checked_before_the_first_trains(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "run", None)
    good = tiny.config("lwf", "random", **SHORT)
    bad = {
        "budget": (tiny.config("lwf", "random", exemplars={"per_class": 1000}), "budget: --exemplars.per-class 1000"),
        "phases": (tiny.config("lwf", "random", stream={"phases": 3}), "phases: --phases 3 does not divide"),
        "epochs": (tiny.config("lwf", "random", train={"epochs": 0}), "epochs: --train.epochs 0"),
    }
    for name, (config, message) in bad.items():
        with pytest.raises(UserError, match=message):
            execute([Job("good", good), Job(name, config)], tmp_path / "out", Display())
    for names in (("a", "a"), ("first-phases",), ("../a",)):
        with pytest.raises(UserError, match="cannot be the name of a run"):
            execute([Job(name, good) for name in names], tmp_path / "out", Display())
    assert not (tmp_path / "out").exists()


def test_a_finished_run_of_other_settings_is_refused_at_once(tiny, tmp_path, monkeypatch):
    config = tiny.config("lwf", "random", **SHORT)
    execute([Job("a", config)], tmp_path, Display())
    monkeypatch.setattr(plan, "run", None)
    with pytest.raises(UserError, match=r"a: .*other settings:\n  seed: 0 there, 1 asked for"):
        execute([Job("b", config), Job("a", dataclasses.replace(config, seed=1))], tmp_path, Display())


def failing_in_phase_1(monkeypatch, error):
    """Lets the runs of seed 1 fail there, once."""
    run_phase, left = phases.run_phase, [error]

    def spoilt(setup, point, watch, keep):
        if setup.config.seed == 1 and left and int((getattr(point, "state", point)).phase) == 1:
            watch.stage(1, "training", 10)
            watch.advance(3, loss=1.0)
            raise left.pop()
        return run_phase(setup, point, watch, keep)

    monkeypatch.setattr("mnemonics_jax.run.run_phase", spoilt)


@pytest.mark.parametrize(
    ("error", "message", "told"),
    [
        (NumbersError("the loss is not finite", "do less"), "phase 1: the loss is not finite", False),
        (MemoryError("out of memory"), "out of memory", True),
        (ZeroDivisionError(), "ZeroDivisionError", True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failed_job_is_recorded_and_tried_again(tiny, tmp_path, monkeypatch, error, message, told):
    failing_in_phase_1(monkeypatch, error)
    jobs = [Job(f"seed{seed}", tiny.config("lwf", "random", seed=seed, **SHORT)) for seed in (0, 1, 2)]
    display = Listening()
    outcome = execute(jobs, tmp_path, display)
    assert list(outcome.summaries) == ["seed0", "seed2"]
    assert list(outcome.failures) == ["seed1"]
    assert outcome.failures["seed1"].startswith(message)
    assert outcome.status == 3
    record = json.loads((tmp_path / "seed1" / "failure.json").read_text())
    assert record["error"] == type(error).__name__
    assert record["where"] == "phase 1 training, step 3 of 10"
    assert ("Traceback" in (record["traceback"] or "")) is told
    assert display.said[-1].startswith(f": warning: seed1 failed: {message}")
    again = execute(jobs, tmp_path, Display())
    assert (list(again.summaries), again.failures) == (["seed0", "seed1", "seed2"], {})
    assert not (tmp_path / "seed1" / "failure.json").exists()
    assert without(again.summaries["seed1"]) == without(run(jobs[1].config, tmp_path / "alone", Display()))


def test_an_interruption_ends_the_whole_plan(tiny, tmp_path, monkeypatch):
    failing_in_phase_1(monkeypatch, KeyboardInterrupt())
    jobs = [Job(f"seed{seed}", tiny.config("lwf", "random", seed=seed, **SHORT)) for seed in (0, 1, 2)]
    with pytest.raises(KeyboardInterrupt):
        execute(jobs, tmp_path, Display())
    assert not (tmp_path / "seed1" / "failure.json").exists()
    assert not (tmp_path / "seed2").exists()
    assert len(execute(jobs, tmp_path, Display()).summaries) == 3


def test_a_comparison_names_its_failed_runs_after_the_others(tiny, tmp_path, monkeypatch):
    failing_in_phase_1(monkeypatch, MemoryError("out of memory"))

    def make(method, kind, seed):
        return tiny.config(method, kind, seed=seed, **SHORT)

    with pytest.raises(RunsFailedError, match=r"1 of 4 runs failed \(lwf-random-seed1\): the same command"):
        compare(make, ["lwf", "icarl"], ["random"], 2, tmp_path, Display())
    assert len(list(tmp_path.glob("*/summary.json"))) == 3
    summaries = compare(make, ["lwf", "icarl"], ["random"], 2, tmp_path, Display())
    assert [(s["method"], s["seed"]) for s in summaries] == [("lwf", 0), ("icarl", 0), ("lwf", 1), ("icarl", 1)]
    # Each class order has one first phase, trained by the first run of that order that gets so far.
    assert len(list(tmp_path.glob("first-phases/*/model"))) == 2
