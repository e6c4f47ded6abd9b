"""Θ_0 shared by runs that start the same: the same results to the bit, and only where they would be the same."""

import dataclasses
import json
import os
import shutil

import helpers
import pytest
from helpers import OFTEN, Listening, bits, events, final_state, newer_format, rewrite_manifest, without_format

from mnemonics_jax.methods.lwf import LwF
from mnemonics_jax.phase import model_level
from mnemonics_jax.runs import runner, start
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime import folders
from mnemonics_jax.runtime.files import locked
from mnemonics_jax.runtime.folders import FORMAT
from mnemonics_jax.runtime.progress import Display

SHORT = {"stream": {"phases": 1}, "train": {"epochs": 2}}


def result(out):
    """Summary and metrics, without the word that something was shared."""
    return [e for e in helpers.result(out, "shared_base_model") if e.get("event") != "base_model"]


def kept(folder):
    return sorted(path.parent.name for path in folder.glob("*/model"))


@pytest.fixture(scope="module")
def shared(tiny, tmp_path_factory):
    """A run that has left its base model: (folder of base models, folder of the run)."""
    out = tmp_path_factory.mktemp("shared")
    run_in_folder(tiny.config("lwf", "random", **SHORT), out / "giver", Display(), base_models=out / "base-models")
    return out / "base-models", out / "giver"


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """A run of another method, exemplar kind and number of phases that shares nothing: its settings and folder."""
    config = tiny.config("icarl", "mnemonics", train={"epochs": 2})
    out = tmp_path_factory.mktemp("alone") / "run"
    run_in_folder(config, out, Display())
    return config, out


@pytest.fixture
def training_of(monkeypatch):
    """The phases that were trained, step by step."""
    trained, run_chunks = [], model_level.run_chunks

    def noting(loop, point, callbacks):
        if not point.done:
            trained.append(loop.streams.phase)
        return run_chunks(loop, point, callbacks)

    monkeypatch.setattr(model_level, "run_chunks", noting)
    return trained


def test_a_run_from_a_shared_base_model_equals_one_of_its_own(shared, alone, tmp_path, training_of):
    config, own = alone
    display = Listening()
    summary = run_in_folder(config, tmp_path / "taker", display, base_models=shared[0])
    assert training_of == [1, 2, 3, 4, 5]
    assert result(tmp_path / "taker") == result(own)
    assert bits(final_state(config, tmp_path / "taker")) == bits(final_state(config, own))
    (name,) = kept(shared[0])
    (event,) = [e for e in events(tmp_path / "taker") if e["event"] == "base_model"]
    assert (event["phase"], event["shared"]) == (0, name)
    assert summary["shared_base_model"] == {"shared": name, "seconds": event["seconds"]}
    assert event["seconds"] > 0
    assert f"phase 0 is trained already, by a run that starts the same ({name})" in display.said
    assert json.loads((own / "summary.json").read_text())["shared_base_model"] is None


def test_the_giver_tells_of_no_sharing(shared):
    assert json.loads((shared[1] / "summary.json").read_text())["shared_base_model"] is None
    assert not [e for e in events(shared[1]) if e["event"] == "base_model"]
    (model,) = shared[0].glob("*/model")
    assert sorted(path.name for path in model.iterdir()) == ["arrays", "manifest.json", "metrics.jsonl"]


def test_a_runs_own_checkpoint_goes_before_a_shared_base_model(shared, alone, tmp_path, training_of, interrupt):
    """A run stopped inside phase 0 goes on from there, though another has finished the phase since."""
    config, own = alone

    interrupt(config, tmp_path / "run", OFTEN, step=16)
    display = Listening()
    run_in_folder(config, tmp_path / "run", display, OFTEN, base_models=shared[0])
    assert any("going on from phase 0, training, step 8" in line for line in display.said)
    assert not [e for e in events(tmp_path / "run") if e["event"] == "base_model"]
    assert result(tmp_path / "run") == result(own)


def test_a_run_interrupted_after_taking_ends_the_same(shared, alone, tmp_path, interrupt):
    config, own = alone

    interrupt(config, tmp_path / "run", OFTEN, phase=1, name="exemplars", base_models=shared[0])
    summary = run_in_folder(config, tmp_path / "run", Display(), OFTEN, base_models=shared[0])
    assert summary["shared_base_model"]["shared"] == kept(shared[0])[0]
    assert result(tmp_path / "run") == result(own)


def flip(model):
    path = max((p for p in model.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.name


def cut_manifest(model):
    os.truncate(model / "manifest.json", 100)
    return "manifest.json"


def test_a_base_model_that_cannot_be_saved_is_a_warning(tiny, shared, tmp_path):
    (tmp_path / "base-models").mkdir()
    # A file stands where the folder of the base model would.
    (tmp_path / "base-models" / kept(shared[0])[0]).write_text("")
    display = Listening()
    run_in_folder(
        tiny.config("bic", "random", **SHORT), tmp_path / "run", display, base_models=tmp_path / "base-models"
    )
    assert [line for line in display.said if "the base model could not be saved for other runs" in line]


@pytest.mark.parametrize("damage", [flip, cut_manifest])
def test_a_damaged_base_model_is_named_and_trained_anew(tiny, shared, tmp_path, training_of, damage):
    folder, config = tmp_path / "base-models", tiny.config("bic", "herding", **SHORT)
    shutil.copytree(shared[0], folder)
    (model,) = folder.glob("*/model")
    name, display = damage(model), Listening()
    assert run_in_folder(config, tmp_path / "one", display, base_models=folder)["shared_base_model"] is None
    (warning,) = [line for line in display.said if "damaged base model" in line]
    assert name in warning
    assert warning.endswith("phase 0 is trained again")
    # The next run finds a good one.
    other = tiny.config("bic", "random", **SHORT)
    assert run_in_folder(other, tmp_path / "two", Display(), base_models=folder)["shared_base_model"] is not None
    assert training_of == [0, 1, 1]


@pytest.mark.parametrize("change", [newer_format, without_format])
def test_a_base_model_of_another_format_is_named_and_stays(tiny, shared, tmp_path, training_of, change):
    folder, config = tmp_path / "base-models", tiny.config("bic", "herding", **SHORT)
    shutil.copytree(shared[0], folder)
    (model,) = folder.glob("*/model")
    rewrite_manifest(model, change)
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    display = Listening()
    assert run_in_folder(config, tmp_path / "run", display, base_models=folder)["shared_base_model"] is None
    (warning,) = [line for line in display.said if "base model" in line]
    assert warning.startswith(f"warning: the base model is not shared: {model} was written ")
    assert f"this one reads format {FORMAT}: use the version that wrote it" in warning
    assert training_of == [0, 1]
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


def test_a_base_model_that_another_process_writes_is_left_to_it(tiny, shared, tmp_path):
    folder, config = tmp_path / "base-models", tiny.config("bic", "random", **SHORT)
    name = kept(shared[0])[0]
    with locked(folder / name):
        (folder / name / "model.part").mkdir()
        run_in_folder(config, tmp_path / "run", Display(), base_models=folder)
        assert sorted(path.name for path in (folder / name).iterdir()) == ["lock", "model.part"]
    # A draft that a crash has left is no hindrance.
    run_in_folder(dataclasses.replace(config, method=LwF()), tmp_path / "next", Display(), base_models=folder)
    assert sorted(path.name for path in (folder / name).iterdir()) == ["lock", "model"]


def test_without_room_for_a_base_model_the_run_goes_on(tiny, tmp_path, monkeypatch):
    write_manifest = folders.write_manifest

    def full(folder, facts):
        if folder.name == "model.part":
            raise OSError(28, "No space left on device")
        write_manifest(folder, facts)

    monkeypatch.setattr(folders, "write_manifest", full)
    display = Listening()
    config = tiny.config("bic", "random", **SHORT)
    run_in_folder(config, tmp_path / "run", display, base_models=tmp_path / "base-models")
    assert any("could not be saved" in line and "No space left" in line for line in display.said)
    assert not kept(tmp_path / "base-models")
    assert [path.name for path in (tmp_path / "base-models").glob("*/*")] == ["lock"]


def test_several_processes_share_no_base_model(tiny, shared, tmp_path, monkeypatch):
    """Each would have to find the same one."""
    monkeypatch.setattr(runner.jax, "process_count", lambda: 2)
    for module in (runner, start):
        monkeypatch.setattr(module, "require_agreement", lambda *_: None)
    monkeypatch.setattr(start, "broadcast_from_primary", lambda text: text)
    config = tiny.config("bic", "random", **SHORT)
    assert run_in_folder(config, tmp_path / "run", Display(), base_models=shared[0])["shared_base_model"] is None
