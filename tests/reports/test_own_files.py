"""Every command writes its results over files of its own alone."""

import json
import os
import shutil

import pytest
from helpers import EXPERIMENTS, TINY_FLAGS, load_script, refused

from mnemonics_jax.reports.own_files import REPORT
from mnemonics_jax.runtime.errors import UserError

NAMES = ["report.html", "comparison.csv", "comparison.json", "comparison.tex", "accuracy.png", "figures"]
COMMANDS = [
    (("report", "RUNS"), NAMES, "report"),
    (("compare", "digits", "--methods", "lwf", "--exemplars", "herding", *TINY_FLAGS), NAMES, "report"),
    (("run", "digits", "--vmap-seeds", "2", *TINY_FLAGS), NAMES, "report"),
    (
        ("sweep", "digits", "--sweep", "train.epochs=1,2"),
        [f"sweep.{suffix}" for suffix in ("json", "csv", "md", "tex", "png")],
        "sweep",
    ),
    (("table", "--scale", "small"), [f"table1-small.{suffix}" for suffix in ("json", "csv", "md", "tex")], "table"),
]


@pytest.mark.parametrize(
    ("words", "name", "writer"),
    [pytest.param(words, name, writer, id=f"{words[0]}-{name}") for words, names, writer in COMMANDS for name in names],
)
def test_files_of_others_stay_as_they_are(words, name, writer, capsys, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    runs.mkdir()
    # Enough to be a run by the names of its files; whether it can be read is found later.
    (runs / "summary.json").write_text("{}")
    out.mkdir()
    (out / name).write_text("years of work")
    said = refused(capsys, *(str(runs) if word == "RUNS" else word for word in words), "--out", str(out))
    assert f"out has {name}, which no {writer} has written: move them away, or choose another --out" in said
    assert (out / name).read_text() == "years of work"
    assert [found.name for found in out.iterdir()] == [name]


@pytest.mark.parametrize("suffix", ["json", "csv", "md", "tex"])
def test_an_ablation_leaves_files_of_others_alone(suffix, tmp_path):
    (tmp_path / f"gate.{suffix}").write_text("years of work")
    words = ["gain", "gate", "--methods", "lwf", "--seeds", "1", "--out", str(tmp_path)]
    with pytest.raises(UserError, match=rf"has gate\.{suffix}, which no ablation has written"):
        load_script(EXPERIMENTS / "ablations.py").main(words)
    assert [found.name for found in tmp_path.iterdir()] == [f"gate.{suffix}"]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "report.html")
    with pytest.raises(UserError, match=r"has report\.html"):
        REPORT.check(tmp_path)


def test_a_report_can_be_written_again(report, tmp_path):
    shutil.copytree(report, tmp_path, dirs_exist_ok=True)
    assert {*NAMES} <= {found.name for found in tmp_path.iterdir()}
    REPORT.check(tmp_path)
    # Each file of text is known by itself; pictures are whose the texts beside them are.
    (tmp_path / "comparison.json").write_text(json.dumps([{"mine": 1}]))
    with pytest.raises(UserError, match=r"has comparison\.json, which"):
        REPORT.check(tmp_path)
