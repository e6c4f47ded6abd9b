"""The folder of a run that is given none: settings that differ have folders that differ."""

import dataclasses
import re

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

    def fail(config, out, display, save):
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
