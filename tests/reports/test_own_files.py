"""Comparisons and reports write over files of reports alone."""

import json
import os
import shutil

import pytest
from helpers import TINY_FLAGS, refused

from mnemonics_jax.reports.own_files import check_own_files
from mnemonics_jax.runtime.errors import UserError

NAMES = ["report.html", "comparison.csv", "comparison.json", "comparison.tex", "accuracy.png", "figures"]
COMMANDS = [
    ("report", "RUNS"),
    ("compare", "digits", "--methods", "lwf", "--exemplars", "herding", *TINY_FLAGS),
    ("run", "digits", "--vmap-seeds", "2", *TINY_FLAGS),
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("name", NAMES)
def test_files_of_others_stay_as_they_are(name, words, capsys, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    runs.mkdir()
    # Enough to be a run by the names of its files; whether it can be read is found later.
    (runs / "summary.json").write_text("{}")
    out.mkdir()
    (out / name).write_text("years of work")
    said = refused(capsys, *(str(runs) if word == "RUNS" else word for word in words), "--out", str(out))
    assert f"out has {name}, which no report has written: move them away, or choose another --out" in said
    assert (out / name).read_text() == "years of work"
    assert [found.name for found in out.iterdir()] == [name]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "report.html")
    with pytest.raises(UserError, match=r"has report\.html"):
        check_own_files(tmp_path)


def test_a_report_can_be_written_again(report, tmp_path):
    shutil.copytree(report, tmp_path, dirs_exist_ok=True)
    assert {*NAMES} <= {found.name for found in tmp_path.iterdir()}
    check_own_files(tmp_path)
    # Each file of text is known by itself; pictures are whose the texts beside them are.
    (tmp_path / "comparison.json").write_text(json.dumps([{"mine": 1}]))
    with pytest.raises(UserError, match=r"has comparison\.json, which"):
        check_own_files(tmp_path)
