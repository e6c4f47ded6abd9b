"""The folder of a run that is given none: settings that differ have folders that differ."""

import dataclasses
import re
from pathlib import Path

import pytest

from mnemonics_jax import cli
from mnemonics_jax.config.parsing import override
from mnemonics_jax.config.presets import make_config
from mnemonics_jax.runs.naming import default_name
from mnemonics_jax.runtime.errors import NumbersError

BASE = make_config("digits")


def name(**settings):
    return default_name(override(BASE, {key.replace("__", "."): value for key, value in settings.items()}), BASE)


def test_a_name_tells_what_differs_from_the_preset():
    assert re.fullmatch(r"digits-icarl-mnemonics-seed0-[0-9a-f]{6}", name())
    assert re.fullmatch(
        r"digits-icarl-mnemonics-unroll_length=1,widths=8:8-seed3-[0-9a-f]{6}",
        name(exemplars__unroll_length="1", net__widths="8,8", seed="3"),
    )
    paper = make_config("digits", "lucir", "mnemonics", "paper")
    assert re.fullmatch(r"digits-lucir-mnemonics-paper-seed0-[0-9a-f]{6}", default_name(paper, paper))
    assert "-seed2-4-" in default_name(dataclasses.replace(BASE, seed=2), BASE, 3)


def test_every_setting_counts():
    names = {name(), name(train__epochs="31"), name(method__temperature="3"), name(seed="1"), name(data__path="a/b")}
    assert len(names) == 5
    assert name(train__epochs="31") == name(train__epochs="31")
    # The name is cut, the hash is not.
    long = [name(data__path="x" * 300 + end) for end in "ab"]
    assert long[0] != long[1]
    assert max(map(len, long)) < 120


def test_a_name_is_one_folder_of_plain_characters():
    assert re.fullmatch(r"[\w.,=:+-]+", name(data__path="../../é $(rm)/[x]"), re.ASCII)
    assert "/" not in name(data__path="/a/b")


def test_a_run_blocks_no_run_of_other_settings(monkeypatch, tmp_path, capsys):
    """As `run digits`, failed or not, and then `run digits --exemplars.unroll-length 1`."""
    monkeypatch.chdir(tmp_path)
    folders = []

    def fail(config, out, display, *_):
        folders.append(out)
        out.mkdir(parents=True)
        raise NumbersError("not finite", "change it")

    monkeypatch.setattr("mnemonics_jax.runs.runner.run_in_folder", fail)
    monkeypatch.setattr("mnemonics_jax.runtime.compile_cache.use_persistent_cache", lambda: None)
    for words in ((), ("--exemplars.unroll-length", "1"), ("--train.epochs", "3")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", "digits", *words])
        assert ended.value.code == 3
    assert len({*folders}) == 3
    assert all(folder.parent.name == "runs" for folder in folders)


class Started(Exception):
    """Carries the folder in which a command would run."""


@pytest.fixture
def folder(monkeypatch):
    """Gives the folder that `compare` or `sweep` chooses for some words."""

    def start(_, *given, **__):
        raise Started(given)

    monkeypatch.setattr("mnemonics_jax.sweeps.comparison.compare", start)
    monkeypatch.setattr("mnemonics_jax.sweeps.jobs.run_jobs", start)
    monkeypatch.setattr("mnemonics_jax.runtime.compile_cache.use_persistent_cache", lambda: None)

    def chosen(*words):
        with pytest.raises(Started) as caught:
            cli.main(words)
        return next(path for path in caught.value.args[0] if isinstance(path, Path)).as_posix()

    return chosen


def test_comparisons_of_other_settings_have_other_folders(folder):
    assert folder("compare", "digits") == "runs/compare-digits"
    # More arms and class orders belong to those that are there.
    assert folder("compare", "digits", "--methods", "lwf", "--seeds", "9") == "runs/compare-digits"
    changed = folder("compare", "digits", "--train.epochs", "3")
    assert re.fullmatch(r"runs/compare-digits-epochs=3-[0-9a-f]{6}", changed)
    assert folder("compare", "digits", "--train.epochs", "4") != changed
    assert folder("compare", "digits", "--recipe", "paper").startswith("runs/compare-digits-paper-")


def test_sweeps_of_other_settings_have_other_folders(folder):
    axis = ("--sweep", "exemplars.unroll_length=1,2")
    first = folder("sweep", "digits", *axis)
    assert re.fullmatch(r"runs/sweep-digits-unroll_length-[0-9a-f]{6}", first)
    assert folder("sweep", "digits", "--sweep", "exemplars.unroll_length=1,2,3", "--seeds", "9") == first
    others = [folder("sweep", "digits", *axis, *more) for more in (("--set", "train.epochs=3"), ("--method", "bic"))]
    assert len({first, *others, folder("sweep", "digits", "--sweep", "exemplars.outer_steps=1,2")}) == 4
