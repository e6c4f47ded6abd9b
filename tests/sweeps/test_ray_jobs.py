"""Points on Ray's own local cluster, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import TINY_SETTINGS, summary, without

from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.sweeps.jobs import Job
from mnemonics_jax.sweeps.ray_config import RayConfig
from mnemonics_jax.sweeps.ray_jobs import run_jobs_on_ray
from mnemonics_jax.sweeps.sweep import Sweep, parse_axes

SETTINGS = (*TINY_SETTINGS, "exemplars.outer_learning_rate=0.02", "stream.phases=1")
ON_RAY = ("--method", "lwf", "--seeds", "1", "--executor", "ray", "--max-failures")


def command(out, *words, settings=SETTINGS):
    return [sys.executable, "-m", "mnemonics_jax", "sweep", *words, "--set", *settings, "--out", str(out)]


def job(words, settings, point):
    pairs = dict(word.split("=") for word in settings)
    sweep = Sweep(parse_axes(words), "digits", "lwf", pairs, 1)
    return sweep.job(point, "mnemonics", 0)


def test_a_point_on_ray_ends_as_it_does_here(tmp_path):
    axis, out = "train.learning_rate=0.1", tmp_path / "out"
    child = subprocess.run(
        command(out, "--sweep", axis, *ON_RAY, "0"), check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert child.returncode == 0, child.stderr
    assert "| 0.1 | 1 |" in child.stdout
    point = job([axis], SETTINGS, {"train.learning_rate": "0.1"})
    assert without(summary(out / point.name), "shared_base_model") == without(
        run_in_folder(point.config, tmp_path / "alone", Display()), "shared_base_model"
    )
    (state,) = (out / "ray").iterdir()
    (shown,) = (json.loads(path.read_text().splitlines()[-1]) for path in state.glob("*/result.json"))
    for key in ("average_accuracy", "average_accuracy_exemplar_model", "average_forgetting"):
        assert shown[key] == summary(out / point.name)[key]


@pytest.mark.slow
def test_a_failed_point_is_told_and_tried_again(tmp_path):
    axis, out = "train.learning_rate=0.1,1e20", tmp_path / "out"
    words = command(out, "--sweep", axis, *ON_RAY, "0")
    for _ in range(2):
        child = subprocess.run(words, check=False, capture_output=True, text=True, cwd=tmp_path)
        assert child.returncode == 3, child.stderr
        assert "- train.learning_rate=1e20, seed 0: phase 0: the training loss is not finite" in child.stdout
        assert "learning_rate=1e20/seed0 failed: phase 0: the training loss" in " ".join(child.stderr.split())
        assert summary(out / "learning_rate=0.1" / "seed0")["average_accuracy"] > 0
        failure = out / "learning_rate=1e20" / "seed0" / "failure.json"
        record = json.loads(failure.read_text())
        assert (record["error"], record["where"]) == ("NumbersError", "phase 0 training")
        failure.unlink()
    assert len(list((out / "ray").iterdir())) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RayConfig(-1.0), "--gpus-per-point -1.0: has to be at least 0"),
        (RayConfig(0.0, 0.0), "--cpus-per-point 0.0: has to be greater than 0"),
        (RayConfig(0.0, 1.0, -1), "--max-failures -1: has to be at least 0"),
    ],
    ids=str,
)
def test_a_share_that_cannot_be_is_refused(tiny, tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        run_jobs_on_ray([Job("a", tiny.config())], tmp_path, Display(), config=config)


def test_without_ray_the_way_to_it_is_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install .mnemonics-jax\[ray\]"):
        run_jobs_on_ray([Job("a", tiny.config())], tmp_path, Display())


def owner(folder):
    """The process that holds a run's folder, as its lock names it."""
    try:
        return int((folder / "lock").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None


def kill_when_saved(folder, child, mark):
    """SIGKILLs the worker of the run in `folder` once it has saved a checkpoint whose name has `mark`; its number."""
    while child.poll() is None:
        saved = [path.name for path in (folder / "checkpoints").glob("*") if path.suffix != ".part"]
        worker = owner(folder)
        if worker and any(mark in name for name in saved):
            os.kill(worker, signal.SIGKILL)
            return worker
        time.sleep(0.002)
    raise AssertionError(child.stderr.read())


@pytest.mark.slow
def test_a_point_whose_worker_is_killed_goes_on_from_its_checkpoint(tmp_path):
    # Long enough to be met while it learns exemplars.
    settings = (*(s for s in SETTINGS if "outer_steps" not in s), "exemplars.outer_steps=600")
    axis = "method.temperature=2.0,3.0"
    often = ("--save.every-outer-steps", "30", "--save.min-seconds", "0")
    words = command(tmp_path / "out", "--sweep", axis, *ON_RAY, "1", *often, settings=settings)
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    jobs = [job([axis], settings, {"method.temperature": value}) for value in ("2.0", "3.0")]
    killed = kill_when_saved(tmp_path / "out" / jobs[0].name, child, "-exemplars-")
    out, said = child.communicate()
    assert child.returncode == 0, said
    assert "going on from phase" in " ".join((out + said).split())
    assert owner(tmp_path / "out" / jobs[0].name) != killed
    for each in jobs:
        expected = run_in_folder(each.config, tmp_path / "alone" / each.name, Display())
        assert without(summary(tmp_path / "out" / each.name), "shared_base_model") == without(
            expected, "shared_base_model"
        )


@pytest.mark.slow
def test_a_sweep_whose_driver_is_killed_is_resumed_by_ray(tmp_path):
    """What Ray has finished is not run again; what was under way goes on."""
    settings = (*(s for s in SETTINGS if "outer_steps" not in s), "exemplars.outer_steps=600")
    axis = "method.temperature=2.0,3.0"
    often = ("--save.every-outer-steps", "30", "--save.min-seconds", "0", "--cpus-per-point", str(os.cpu_count()))
    words = command(tmp_path / "out", "--sweep", axis, *ON_RAY, "0", *often, settings=settings)
    jobs = [job([axis], settings, {"method.temperature": value}) for value in ("2.0", "3.0")]
    first, second = (tmp_path / "out" / each.name for each in jobs)
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    while child.poll() is None and not list((second / "checkpoints").glob("*-exemplars-*")):
        time.sleep(0.01)
    child.kill()
    child.communicate()
    finished = (first / "summary.json").stat().st_mtime_ns
    time.sleep(5)  # Ray's workers end themselves when their driver is gone.
    assert not (second / "summary.json").exists()
    again = subprocess.run(words, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (first / "summary.json").stat().st_mtime_ns == finished
    for each in jobs:
        expected = run_in_folder(each.config, tmp_path / "alone" / each.name, Display())
        assert without(summary(tmp_path / "out" / each.name), "shared_base_model") == without(
            expected, "shared_base_model"
        )
