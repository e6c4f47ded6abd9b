"""Many runs in one process: checked before the first, shared where they are the same, and none ends the others."""

import dataclasses
import json
import pickle

import pytest
from helpers import Listening, without

from mnemonics_jax import data
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.errors import NumbersError, RunsFailedError, UserError
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.sweeps import jobs as plan
from mnemonics_jax.sweeps.comparison import compare
from mnemonics_jax.sweeps.jobs import Job, run_jobs

SHOWN = ("average_accuracy", "last_accuracy", "seconds")
SHORT = {"stream": {"phases": 1}, "train": {"epochs": 2}}


@pytest.fixture
def loads(monkeypatch):
    """The configurations whose data were loaded."""
    loaded, load = [], data.load

    def noting(config):
        loaded.append(config)
        return load(config)

    monkeypatch.setattr(data, "load", noting)
    return loaded


def test_jobs_share_data_and_base_model_and_end_as_alone(tiny, tmp_path, loads):
    configs = {name: tiny.config(name, "random", **SHORT) for name in ("lwf", "icarl", "lucir")}
    display = Listening()
    outcome = run_jobs([Job(name, config) for name, config in configs.items()], tmp_path, display)
    assert (list(outcome.summaries), outcome.failures, outcome.status) == (list(configs), {}, 0)
    assert len(loads) == 1
    assert [summary["shared_base_model"] is not None for summary in outcome.summaries.values()] == [False, True, False]
    assert any(line.startswith("[2/3] icarl: phase 1: 10 classes") for line in display.titled)
    for name, config in configs.items():
        assert json.loads((tmp_path / name / "summary.json").read_text()) == outcome.summaries[name]
        assert without(outcome.summaries[name], "shared_base_model") == without(
            run_in_folder(config, tmp_path / "alone" / name, Display()), "shared_base_model"
        )
    # Again: everything is finished; the data are loaded once, to see that they are still those of the runs.
    loads.clear()
    assert run_jobs([Job(name, config) for name, config in configs.items()], tmp_path, Display()) == outcome
    assert len(loads) == 1


def test_other_data_take_the_place_of_those_before(tiny, tmp_path, loads, monkeypatch):
    def counting(config, *_, load, **__):
        return {"images": len(load(config.data).train_images), **dict.fromkeys(SHOWN, 0.0)}

    monkeypatch.setattr(plan, "run_in_folder", counting)
    kinds = {str(n): tiny.config("lwf", "random", **SHORT, data={"num_classes": n}) for n in (10, 8)}
    run_jobs([Job(name, config) for name, config in kinds.items()], tmp_path, Display())
    # Once each to check the jobs, and again to run them: one data set at most is kept.
    assert [config.num_classes for config in loads] == [10, 8, 10, 8]


def test_every_job_is_checked_before_the_first_trains(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "run_in_folder", None)
    good = tiny.config("lwf", "random", **SHORT)
    bad = {
        "budget": (tiny.config("lwf", "random", exemplars={"per_class": 1000}), "budget: --exemplars.per-class 1000"),
        "phases": (tiny.config("lwf", "random", stream={"phases": 3}), "phases: --phases 3 does not divide"),
        "epochs": (tiny.config("lwf", "random", train={"epochs": 0}), "epochs: --train.epochs 0"),
    }
    for name, (config, message) in bad.items():
        with pytest.raises(UserError, match=message):
            run_jobs([Job("good", good), Job(name, config)], tmp_path / "out", Display())
    for names in (("a", "a"), ("base-models",), ("../a",), ("a/../../b",), ("/a",), ("",)):
        with pytest.raises(UserError, match="cannot be the name of a run"):
            run_jobs([Job(name, good) for name in names], tmp_path / "out", Display())
    assert not (tmp_path / "out").exists()


def test_a_finished_run_of_other_settings_is_refused_at_once(tiny, tmp_path, monkeypatch):
    config = tiny.config("lwf", "random", **SHORT)
    run_jobs([Job("a", config)], tmp_path, Display())
    monkeypatch.setattr(plan, "run_in_folder", None)
    with pytest.raises(UserError, match=r"a: .*other settings:\n  seed: 0 there, 1 asked for"):
        run_jobs([Job("b", config), Job("a", dataclasses.replace(config, seed=1))], tmp_path, Display())


def failing_in_phase_1(monkeypatch, error):
    """Lets the runs of seed 1 fail there, once."""
    left = [error]

    def spoilt(setup, point, callbacks):
        if setup.config.seed == 1 and left and int((getattr(point, "state", point)).phase) == 1:
            callbacks.stage(1, "training", 10)
            callbacks.advance(3, loss=1.0)
            raise left.pop()
        return run_phase(setup, point, callbacks)

    monkeypatch.setattr("mnemonics_jax.runs.runner.run_phase", spoilt)


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
    outcome = run_jobs(jobs, tmp_path, display)
    assert list(outcome.summaries) == ["seed0", "seed2"]
    assert list(outcome.failures) == ["seed1"]
    assert outcome.failures["seed1"].startswith(message)
    assert outcome.status == 3
    record = json.loads((tmp_path / "seed1" / "failure.json").read_text())
    assert record["error"] == type(error).__name__
    assert record["where"] == "phase 1 training, step 3 of 10"
    assert ("Traceback" in (record["traceback"] or "")) is told
    assert display.titled[-1].startswith(f": warning: seed1 failed: {message}")
    again = run_jobs(jobs, tmp_path, Display())
    assert (list(again.summaries), again.failures) == (["seed0", "seed1", "seed2"], {})
    assert not (tmp_path / "seed1" / "failure.json").exists()
    assert without(again.summaries["seed1"], "shared_base_model") == without(
        run_in_folder(jobs[1].config, tmp_path / "alone", Display()), "shared_base_model"
    )


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(NumbersError("the loss is not finite", "do less")))
    assert (str(error), error.advice) == ("the loss is not finite", "do less")


def test_an_interruption_ends_the_whole_plan(tiny, tmp_path, monkeypatch):
    failing_in_phase_1(monkeypatch, KeyboardInterrupt())
    jobs = [Job(f"seed{seed}", tiny.config("lwf", "random", seed=seed, **SHORT)) for seed in (0, 1, 2)]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, tmp_path, Display())
    assert not (tmp_path / "seed1" / "failure.json").exists()
    assert not (tmp_path / "seed2").exists()
    assert len(run_jobs(jobs, tmp_path, Display()).summaries) == 3


def test_a_comparison_names_its_failed_runs_after_the_others(tiny, tmp_path, monkeypatch):
    failing_in_phase_1(monkeypatch, MemoryError("out of memory"))
    arms = {(method, "random"): tiny.config(method, "random", **SHORT) for method in ("lwf", "icarl")}
    with pytest.raises(RunsFailedError, match=r"1 of 4 runs failed \(lwf-random-seed1\): run the same command"):
        compare(arms, 2, tmp_path, Display())
    assert len(list(tmp_path.glob("*/summary.json"))) == 3
    summaries = compare(arms, 2, tmp_path, Display())
    assert [(s["method"], s["seed"]) for s in summaries] == [("lwf", 0), ("icarl", 0), ("lwf", 1), ("icarl", 1)]
    # Each class order has one base model, trained by the first run of that order that gets so far.
    assert len(list(tmp_path.glob("base-models/*/model"))) == 2
