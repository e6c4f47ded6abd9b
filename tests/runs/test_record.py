"""A run belongs to its configuration, its data and its arithmetic, and says so when one of them is another."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from helpers import OFTEN, Listening, result, summary
from PIL import Image

from mnemonics_jax.data import load
from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.runs.base_model_cache import BaseModelCache
from mnemonics_jax.runs.folder import check_folder
from mnemonics_jax.runs.record import Record
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime import kernels
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.sweeps.jobs import Job, run_jobs

SHORT = {"stream": {"phases": 1, "base": 2}, "train": {"epochs": 1, "later_epochs": 1, "chunk_steps": 2}}


def write_data(path, *, permuted=()):
    """Four classes of noise; in the splits `permuted` the same labels in another order."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 24), ("test", 8)):
        labels = np.repeat(np.arange(4), count)
        arrays[f"{split}_images"] = rng.integers(0, 256, (4 * count, 8, 8, 1), np.uint8)
        arrays[f"{split}_labels"] = labels[::-1] if split in permuted else labels
    np.savez(path, **arrays)


@pytest.fixture
def config(tiny, tmp_path):
    write_data(tmp_path / "data.npz")
    return tiny.config("icarl", "herding", data={"source": "npz", "path": str(tmp_path / "data.npz")}, **SHORT)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize("state", ["half done", "finished"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_changed_data_are_refused(config, tmp_path, interrupt, split, state):
    out = tmp_path / "run"
    if state == "half done":
        interrupt(config, out, OFTEN, phase=1, name="training")
    else:
        run_in_folder(config, out, Display(), OFTEN)
    write_data(tmp_path / "data.npz", permuted=[split])
    before = contents(out)
    for start in (
        lambda: run_in_folder(config, out, Display(), OFTEN),
        lambda: run_jobs([Job("run", config)], tmp_path, Display(), OFTEN),
    ):
        with pytest.raises(UserError, match=f"other data; different now: {split}_labels: restore the data"):
            start()
    assert contents(out) == before
    write_data(tmp_path / "data.npz")
    run_in_folder(config, out, Display(), OFTEN)


def test_changed_data_have_another_first_model(config, tmp_path):
    name = BaseModelCache(tmp_path, make_setup(config), pytest.fail).name
    write_data(tmp_path / "data.npz", permuted=["train"])
    assert BaseModelCache(tmp_path, make_setup(config), pytest.fail).name != name


def test_streamed_files_are_known_by_name_size_and_time(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "one" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "one" / split / name / "0.png")

    def found(root):
        return load(DataConfig(source="folder", path=str(root), image_size=8, stream=True)).fingerprint

    before = found(tmp_path / "one")
    assert found(shutil.copytree(tmp_path / "one", tmp_path / "moved")) == before
    path = tmp_path / "one" / "train" / "a" / "0.png"
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    after = found(tmp_path / "one")
    assert {name for name in before if before[name] != after[name]} == {"train_images"}
    path.replace(path.with_name("1.png"))
    assert found(tmp_path / "one")["train_images"] not in (before["train_images"], after["train_images"])


def test_results_of_another_configuration_are_not_taken_for_these(tiny, tmp_path, interrupt):
    config, other = tiny.config(**SHORT), tiny.config(seed=1, **SHORT)
    done, half, away = tmp_path / "done", tmp_path / "half", tmp_path / "away"
    run_in_folder(config, done, Display(), OFTEN)
    interrupt(config, half, OFTEN, phase=1, name="training", step=2)
    interrupt(other, away, OFTEN, phase=0, name="training")
    for out, names in ((done, "summary.json, manifest.json, metrics.jsonl"), (half, "metrics.jsonl, checkpoints")):
        (out / "config.json").unlink()
        before = contents(out)
        for asked in (config, other):
            with pytest.raises(UserError, match=f"has {names}.* but no config.json"):
                run_in_folder(asked, out, Display(), OFTEN)
        assert contents(out) == before
        # Even with the file of the other run, the results still belong to the first.
        shutil.copy(away / "config.json", out)
        with pytest.raises(UserError, match="belongs to a run with other settings"):
            run_in_folder(other, out, Display(), OFTEN)


def test_another_arithmetic_is_told_and_recorded(tiny, tmp_path, interrupt, monkeypatch):
    config, out = tiny.config(**SHORT), tmp_path / "run"
    monkeypatch.setattr(kernels, "identity", lambda: "own abc")
    interrupt(config, out, OFTEN, phase=1, name="training", step=2)
    monkeypatch.setattr(kernels, "identity", lambda: "xla")
    display = Listening()
    run_in_folder(config, out, display, OFTEN)
    (warning,) = [line for line in display.said if "computed with something else" in line]
    assert "kernels own abc → xla" in warning
    first, second = summary(out)["record"]["arithmetic"]
    assert (first["kernels"], second["kernels"]) == ("own abc", "xla")
    assert second["since"] == "0001-0-begin"
    # The same arithmetic is nothing to tell.
    straight = tmp_path / "straight"
    run_in_folder(config, straight, display, OFTEN)
    assert len([line for line in display.said if "computed with something else" in line]) == 1
    assert len(summary(straight)["record"]["arithmetic"]) == 1


@pytest.mark.parametrize("name", ["tensorboard", "metrics.jsonl", "summary.json", "checkpoints", "manifest.json"])
def test_files_of_others_stay_as_they_are(tiny, tmp_path, name):
    path = tmp_path / name
    if name in ("tensorboard", "checkpoints"):
        path.mkdir()
        path = path / "mine"
    path.write_text("years of work")
    with pytest.raises(UserError, match=f"{name.split('.')[0]}.* but no config.json.*are left as they are"):
        run_in_folder(tiny.config(**SHORT), tmp_path, Display())
    assert path.read_text() == "years of work"
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_another_program_s_config_is_named_in_few_lines(tiny, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({f"option_{i}": i for i in range(500)}))
    with pytest.raises(UserError, match=r"and \d+ more\nchoose another --out") as caught:
        check_folder(tmp_path, tiny.config(), Record("", {}))
    assert len(str(caught.value).splitlines()) < 30


def test_only_own_files_in_tensorboard_are_removed(tiny, tmp_path, interrupt):
    config = tiny.config(**SHORT)
    interrupt(config, tmp_path, OFTEN, phase=0, name="training", step=2)
    (tmp_path / "tensorboard" / "notes.txt").write_text("years of work")
    run_in_folder(config, tmp_path, Display(), OFTEN)
    names = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert len(names) == 2
    assert (tmp_path / "tensorboard" / "notes.txt").read_text() == "years of work"


class Removing(Display):
    """Removes the folder of the run after a step."""

    def __init__(self, out):
        super().__init__()
        self._out = out

    def advance(self, done, **values):
        shutil.rmtree(self._out, ignore_errors=True)


def test_a_folder_that_goes_away_ends_the_run(tiny, tmp_path):
    with pytest.raises(UserError, match="was removed or replaced while the run was writing to it"):
        run_in_folder(tiny.config(**SHORT), tmp_path / "run", Removing(tmp_path / "run"), OFTEN)


@pytest.mark.parametrize("name", ["a[1]", "what*"])
def test_any_name_of_a_folder_works(tiny, tmp_path, interrupt, name):
    config = tiny.config(**SHORT)
    run_in_folder(config, tmp_path / "plain", Display(), OFTEN)
    interrupt(config, tmp_path / name, OFTEN, phase=1, name="training", step=2)
    run_in_folder(config, tmp_path / name, Display(), OFTEN)
    assert result(tmp_path / name) == result(tmp_path / "plain")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"seed": 0', '"seed": 1'),
        lambda text: "{}",
        lambda text: "[]",
        lambda text: '{"a": 1}',
        lambda text: "null",
        lambda text: '{"average_accuracy": ' + "9" * 5000 + "}",
    ],
    ids=["empty", "cut", "number", "object", "list", "foreign", "null", "digits"],
)
def test_a_summary_that_is_not_what_was_written_is_written_again(tiny, tmp_path, done, damage):
    config, out = done
    copy = shutil.copytree(out, tmp_path / "copy")
    path = copy / "summary.json"
    path.write_text(damage(path.read_text()))
    display = Listening()
    assert run_in_folder(config, copy, display, OFTEN) == summary(out)
    assert any(f"{path} is damaged" in line for line in display.said)
    assert result(copy) == result(out)


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    config, out = tiny.config(**SHORT), tmp_path_factory.mktemp("done") / "run"
    run_in_folder(config, out, Display(), OFTEN)
    return config, out


def test_a_summary_says_what_it_was_computed_from(done):
    config, out = done
    record = summary(out)["record"]
    assert record == json.loads((out / "config.json").read_text())["record"]
    setup = make_setup(config)
    assert record["data"] == setup.stream.dataset.fingerprint
    other = make_setup(dataclasses.replace(config, seed=5)).stream.dataset.fingerprint
    assert record["data"] == other
