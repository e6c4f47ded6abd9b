"""The benchmark of whatever device is there: its time, what is left when parts fail, and each part at a tiny size."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import EXPERIMENTS

FOLDER = EXPERIMENTS / "benchmarks"

FAKE = """
import os, subprocess, sys, time
_, _, part, seconds, file, *_ = sys.argv
with open(file, "a") as lines:
    print('{"device": {"device": "1 × box", "platform": "abacus"}, "sizes": "full", "planned": ["x", "y"]}', file=lines)
    print('{"case": "x", "values": {"s": 1.5}}', file=lines, flush=True)
    if part == "slow":
        helper = subprocess.Popen(["sleep", "60"])
        print(helper.pid, file=open(os.environ["HELPER"], "w"), flush=True)
        time.sleep(60)
    if part == "broken":
        sys.exit("the device is on fire")
    print('{"case": "y", "values": {"missing": "MemoryError: too large"}}', file=lines)
"""


@pytest.fixture(scope="module", autouse=True)
def folder():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield


@pytest.fixture
def parts():
    import accelerator_parts

    return accelerator_parts


@pytest.fixture
def sizes():
    """Sizes that compile and run in seconds."""
    from accelerator_sizes import SMALL

    return dataclasses.replace(SMALL, class_images=20)


def runs(process):
    """Whether a process runs; one that has ended may wait to be noticed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_part_has_its_share_and_what_fails_leaves_the_rest(monkeypatch, tmp_path):
    import accelerator

    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(accelerator, "__file__", str(tmp_path / "fake.py"))
    monkeypatch.setenv("HELPER", str(tmp_path / "helper"))
    plan = [accelerator.Part(name, share, name) for name, share in [("slow", 0.2), ("broken", 0.3), ("good", 0.5)]]
    began = time.monotonic()
    accelerator.measure(plan, 15.0, "auto", tmp_path)
    assert time.monotonic() - began < 12, "the part that sleeps was given more than its share"
    results = json.loads((tmp_path / "accelerator.json").read_text())
    found = results["parts"]
    assert [found[name]["rows"]["x"] for name in ("slow", "broken", "good")] == [{"s": 1.5}] * 3
    assert found["slow"]["missing"] == "no time left: its part had 3 s"
    assert found["broken"]["missing"] == "ended with status 1: the device is on fire"
    assert found["good"]["missing"] == ""
    page = (tmp_path / "accelerator.md").read_text()
    assert page.startswith("# Figures of 1 × box\n")
    for line in ("| x | 1.5 |", "| y | – (no time left: its part had 3 s) |", "| y | – (MemoryError: too large) |"):
        assert line in page
    # What the part had started has ended with it.
    while runs(int((tmp_path / "helper").read_text())):
        assert time.monotonic() - began < 30
        time.sleep(0.1)


def test_results_are_there_before_the_end(monkeypatch, tmp_path):
    import accelerator

    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(accelerator, "__file__", str(tmp_path / "fake.py"))
    monkeypatch.setenv("HELPER", str(tmp_path / "helper"))
    seen = []

    def killed(results, out):
        write(results, out)
        if results["parts"]["slow"]["rows"]:
            seen.append(json.loads((out / "accelerator.json").read_text()))
            raise KeyboardInterrupt

    write = accelerator.write
    monkeypatch.setattr(accelerator, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        accelerator.measure([accelerator.Part(name, 0.5, name) for name in ("slow", "good")], 60.0, "auto", tmp_path)
    assert seen[0]["parts"]["slow"]["rows"] == {"x": {"s": 1.5}}
    assert seen[0]["parts"]["good"]["missing"] == "its turn has not come"


def test_the_script_measures_this_device(tmp_path):
    words = ["--minutes", "5", "--parts", "herding", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "accelerator.py"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "accelerator.json").read_text())
    assert results["device"]["platform"] == "cpu"
    (values,) = results["parts"]["herding"]["rows"].values()
    assert values["same"] == 1.0
    assert values["NumPy loop, ms"] / values["jitted call, ms"] == pytest.approx(values["ratio"])
    assert done.stdout == (tmp_path / "accelerator.md").read_text() + "\n"
    assert "Small sizes" in done.stdout


def test_every_part_has_its_measurement(parts, sizes):
    import accelerator

    assert sum(part.share for part in accelerator.PARTS) == pytest.approx(1)
    for part in accelerator.PARTS:
        for size in (sizes, parts.FULL):
            assert getattr(parts, part.name)(size)


def test_a_run_end_to_end_is_timed_beside_its_device(parts, sizes):
    (case,) = parts.end_to_end(sizes)
    values = case.measure()
    # Five of ten classes, 20 pictures each, in batches of 16, six epochs.
    assert values["steps"] == 42
    assert values["images/s"] > 0
    assert 0 <= values["device waits, %"] < 100


def test_the_stream_goes_on_from_phase_to_phase(parts, sizes, monkeypatch):
    def run_phase(setup, state):
        if state.phase == 0:
            parts.jax.jit(lambda x: x + 1)(np.ones(3))
        return state._replace(phase=state.phase + 1)

    monkeypatch.setattr(parts.mn, "run_phase", run_phase)
    found = [case.measure() for case in parts.stream(sizes)]
    assert [values["images"] for values in found] == ["synthetic"] * 3
    assert found[0]["compilations"] > 0
    assert [values["compilations"] for values in found[1:]] == [0, 0]
    with pytest.raises(RuntimeError, match="the phase before has failed"):
        parts.stream(sizes)[1].measure()


@pytest.mark.slow
def test_every_part_measures_here(tmp_path):
    words = ["--minutes", "15", "--out", str(tmp_path)]
    subprocess.run([sys.executable, str(FOLDER / "accelerator.py"), *words], check=True)
    parts = json.loads((tmp_path / "accelerator.json").read_text())["parts"]
    assert [name for name, part in parts.items() if part["missing"]] == []
    assert [values for part in parts.values() for values in part["rows"].values() if "missing" in values] == []


def test_seeds_are_run_at_once_and_compilation_is_apart(parts, sizes, monkeypatch):
    phases = []
    monkeypatch.setattr(parts.mn, "run_phase", lambda setup, state: phases.append(setup.config.seed) or state)
    values = parts._seeds(sizes, 3)
    # Two phases of each, once to compile and once timed.
    assert sorted(phases) == sorted([0, 1, 2] * 4)
    assert values["s a seed"] == pytest.approx(values["s"] / 3)


def test_steps_are_compared_with_pytorch_twice_and_with_dashes(parts, sizes, monkeypatch):
    step, asked = parts.step_benchmark, []

    def measure(config):
        asked.append(config)
        if config.compiled:
            return step.Result(5.0, 1.0, {step.OURS: [0.5]}, missing="no compiler")
        return step.Result(5.0, 1.0, {step.OURS: [0.5, 0.25], step.EAGER: [1.0]})

    monkeypatch.setattr(step, "measure", measure)
    monkeypatch.setattr(parts.peers, "torch_missing", str)
    cases = parts.training_step(sizes)
    assert [case.name for case in cases[:4]] == [case.name for case in cases[4:]]
    values = cases[1].measure()
    assert (asked[0].net, asked[0].precision, asked[0].batch) == ("resnet32", "bfloat16", 8)
    assert (values["JAX, images/s"], values["JAX to PyTorch eager"]) == (32, 4)
    assert cases[5].measure() == {"torch.compile, ms": "– (no compiler)", "JAX to torch.compile": "–"}
    monkeypatch.setattr(parts.peers, "torch_missing", lambda: "PyTorch is not installed")
    assert cases[7].measure()["torch.compile, ms"] == "– (PyTorch is not installed)"
    assert len(asked) == 2, "JAX was measured again, with nothing to compare it with"


def test_a_meta_gradient_without_pytorch_has_dashes(parts, sizes, monkeypatch):
    nan = float("nan")
    row = parts.meta_benchmark.Row(4, 5, 7.0, 1.0, 2.0, [0.5, 0.4], nan, [nan], nan)
    monkeypatch.setattr(parts.meta_benchmark, "measure", lambda config, exemplars, steps: row)
    monkeypatch.setattr(parts.peers, "torch_missing", lambda: "PyTorch is not installed")
    values = parts.meta_gradient(sizes)[1].measure()
    assert (values["JAX, s"], values["PyTorch, s"]) == (0.4, "– (PyTorch is not installed)")
    assert not [value for value in values.values() if value != value]


def test_the_jax_program_of_the_training_step_learns():
    import training_step

    rng = np.random.default_rng(0)
    net, variables = training_step.nets.build(training_step.nets.NetConfig(widths=(4, 4)), 5, "linear"), None
    variables = training_step.nets.init(net, training_step.jax.random.key(0), (8, 8, 3))
    images, labels = rng.normal(size=(10, 8, 8, 3)).astype(np.float32), rng.integers(0, 5, 10)
    compiled, call = training_step.jax_trainer(net, variables, images, labels, 6)
    assert compiled.memory_analysis().temp_size_in_bytes > 0
    losses = call()
    assert losses.shape == (6,)
    assert losses[-1] < losses[0]
