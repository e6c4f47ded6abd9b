"""`mnemonics table`, which reproduces the paper's table, on a protocol of seconds."""

import csv
import json
import re
import shutil

import pytest
import tyro
from helpers import TINY_SETTINGS

from mnemonics_jax.cli.table import TableSettings, run
from mnemonics_jax.reports.own_files import table1_files
from mnemonics_jax.reports.table1 import rows as table_rows
from mnemonics_jax.reports.table1 import title
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.sweeps import jobs as plan
from mnemonics_jax.sweeps import table1

SETTINGS = (*TINY_SETTINGS, "exemplars.outer_learning_rate=0.02")

pytestmark = pytest.mark.usefixtures("short_trials")


def asked(out, *words, tiny=True):
    settings = ("--set", *SETTINGS) if tiny else ()
    return tyro.cli(TableSettings, args=["--scale", "small", "--out", str(out), *settings, *words])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A part of the table: its folder and its rows."""
    out = tmp_path_factory.mktemp("table") / "out"
    words = ("--phases", "5", "--methods", "lwf", "icarl", "--seeds", "2")
    assert run(asked(out, *words)) == 0
    return out


def read(out, name="small"):
    with (out / f"table1-{name}.csv").open() as file:
        return {(r["method"], r["arm"], r["phases"]): r for r in csv.DictReader(file)}


def average(out, cell, seed, key="average_accuracy"):
    return json.loads((out / f"small-n5/{cell}-seed{seed}/summary.json").read_text())[key]


def test_the_papers_figures_are_those_of_the_slides():
    assert table1.paper("cifar100", table1.Cell(25, "lucir", "ours")) == 63.70
    assert table1.paper("cifar100", table1.Cell(5, "lwf", "baseline")) == 49.59
    assert table1.paper("imagenet", table1.Cell(10, "bic", "ours")) == 62.71
    assert table1.paper("imagenet", table1.Cell(10, "icarl", "ours+transfer")) == 58.62
    assert table1.paper("imagenet-subset", table1.Cell(10, "icarl", "ours")) is None
    figures = table1.PAPER["average_accuracy"]
    for rows in figures.values():
        for method in table1.METHODS:
            # In every column of the slides "w/ ours" is above its baseline.
            assert all(a < b for a, b in zip(rows[method]["baseline"], rows[method]["ours"], strict=True))


def test_without_a_choice_all_numbers_of_phases_are_run_that_the_data_allow(tmp_path):
    def numbers(*words):
        request = tyro.cli(TableSettings, args=["--out", str(tmp_path), *words])
        return {job.config.stream.phases for job in table1.table_jobs(request)}

    assert numbers() == numbers("--scale", "small", "--images", str(tmp_path)) == {5, 10, 25}
    assert numbers("--scale", "small") == {5}
    assert numbers("--phases", "10") == {10}


def test_a_full_cell_is_the_preset_with_its_n_and_arm(tmp_path):
    full = tyro.cli(TableSettings, args=["--dataset", "imagenet", "--out", str(tmp_path)])
    config = table1.make(full, table1.Cell(10, "lucir", "ours+transfer"), 2)
    assert (config.preset, config.stream.phases, config.seed) == ("imagenet", 10, 2)
    assert (config.method.name, config.method.lambda_base, config.exemplars.name) == ("lucir", 10.0, "mnemonics")
    assert config.net.weight_transfer
    baseline = table1.make(full, table1.Cell(25, "bic", "baseline"), 0)
    assert (baseline.exemplars.name, baseline.net.weight_transfer) == ("herding", False)


def test_the_recipe_is_that_of_every_cell_and_the_arms_say_what_is_transferred(tmp_path):
    paper = tyro.cli(TableSettings, args=["--recipe", "paper", "--out", str(tmp_path)])
    for arm in table1.ARMS:
        config = table1.make(paper, table1.Cell(5, "lucir", arm), 0)
        assert (config.recipe, config.exemplars.inner_init) == ("paper", "current")
        assert config.net.weight_transfer == (arm == "ours+transfer")
    assert title(paper) == "cifar100, recipe paper"
    assert {row["recipe"] for row in table_rows(paper)} == {"paper"}


def test_cells_hold_mean_error_and_gain(made):
    rows = read(made)
    assert len(rows) == 3 * 4 * 2
    for method in ("lwf", "icarl"):
        one, two = (average(made, f"{method}-ours", seed) for seed in (0, 1))
        base = [average(made, f"{method}-baseline", seed) for seed in (0, 1)]
        row = rows[method, "ours", "5"]
        assert float(row["average_accuracy_mean"]) == pytest.approx((one + two) / 2)
        assert float(row["average_accuracy_sem"]) == pytest.approx(abs(one - two) / 2)
        assert float(row["gain_mean"]) == pytest.approx((one + two - sum(base)) / 2)
        assert (row["seeds"], row["scale"], row["difference"]) == ("2", "small", "")
        assert rows[method, "baseline", "5"]["gain_mean"] == ""
    assert float(rows["lwf", "ours", "5"]["paper_average_accuracy"]) == 54.43
    assert float(rows["lwf", "ours", "5"]["paper_gain"]) == pytest.approx(54.43 - 49.59)
    # Both methods, both arms: one base model for each class order.
    assert len(list((made / "base-models").glob("*/model"))) == 2


def test_what_was_not_run_is_empty_and_the_protocol_named(made):
    text = (made / "table1-small.md").read_text()
    assert text.startswith("# SHORTENED PROTOCOL on digits")
    assert "no difference is taken" in text
    latex = (made / "table1-small.tex").read_text()
    assert latex.startswith("% SHORTENED PROTOCOL on digits")
    assert latex.count(r"\begin{table}") == 6
    table1_files("table1-small").check(made)
    assert r"exemplars.unroll\_length=3" in latex
    assert len(json.loads((made / "table1-small.json").read_text())) == len(read(made))
    assert "exemplars.unroll_length=3" in text.splitlines()[0]
    assert re.search(r"\| BiC w/ ours \| 60\.67 \|  \|  \| 58\.11 \|  \|  \| 55\.51 \|  \|  \|", text)
    assert re.search(r"\| LwF \| 49\.59 \| \d+\.\d\d ± \d+\.\d\d \(n=2\) \|  \| 46\.98 \|", text)
    assert read(made)["bic", "ours", "5"]["average_accuracy_mean"] == ""
    # The slides have no forgetting, so nothing is set beside ours.
    for name in ("forgetting (base classes)", "forgetting (average)", "backward transfer"):
        assert f"| method | N=5 {name} | N=10 {name} | N=25 {name} |" in text


def test_another_part_adds_to_the_table_and_runs_nothing_twice(made, tmp_path, monkeypatch):
    ran = []
    shutil.copytree(made, tmp_path / "out")
    made = tmp_path / "out"

    def run_in_folder(config, out, *_, **__):
        ran.append(out.relative_to(made).as_posix())
        out.mkdir()
        (out / "config.json").write_text(json.dumps(config.to_dict()))
        summary = json.loads((made / "small-n5/lwf-ours-seed0/summary.json").read_text()) | {"average_accuracy": 12.5}
        (out / "summary.json").write_text(json.dumps(summary))
        return summary

    monkeypatch.setattr(plan, "run_in_folder", run_in_folder)
    part = ("--phases", "5", "--methods", "lwf", "--arms", "baseline", "ours+transfer", "--seeds", "1")
    assert run(asked(made, *part)) == 0
    assert ran == ["small-n5/lwf-ours+transfer-seed0"]
    rows = read(made)
    assert rows["icarl", "ours", "5"]["seeds"] == "2"
    assert rows["lwf", "ours+transfer", "5"]["seeds"] == "1"
    assert "| LwF w/ ours and weight transfer | 54.43 | 12.50 (n=1) |" in (made / "table1-small.md").read_text()


def test_the_list_shows_what_is_done_and_writes_nothing(made, tmp_path, capsys):
    before = sorted(made.rglob("*"))
    run(asked(made, "--phases", "5", "--methods", "icarl", "bic", "--seeds", "1", "--list"))
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"done   small-n5/icarl-baseline-seed0 \d+\.\d\d", lines[0])
    assert lines[2:] == ["to do  small-n5/bic-baseline-seed0", "to do  small-n5/bic-ours-seed0"]
    assert sorted(made.rglob("*")) == before
    run(asked(tmp_path / "none", "--phases", "5", "--list"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", "0"), "--seeds 0: give at least 1"),
        (("--seeds", "1000000000000"), "--seeds 1000000000000: give at least 1 and at most 10000"),
        (("--phases", "10", "--methods", "lwf"), "small-n10/lwf-baseline-seed0: --phases 10 does not divide"),
        (("--scale", "full", "--images", "x"), "--images is for --scale small"),
        (("--set", "exemplars.outer_step=5"), "unknown setting 'exemplars.outer_step': did you mean"),
        (("--recipe", "papr"), "unknown recipe 'papr': did you mean 'paper'"),
        (("--set", "outer_steps"), "--set outer_steps: give FIELD=VALUE"),
    ],
    ids=str,
)
def test_a_mistake_is_refused(tmp_path, words, message):
    with pytest.raises(UserError) as caught:
        run(asked(tmp_path / "out", *words, tiny=False))
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_runs_of_other_settings_are_not_taken_for_the_tables(made):
    with pytest.raises(UserError, match=r"other settings:\n  train.epochs: 2 there, 10 asked for"):
        run(asked(made, "--phases", "5", "--set", *(s for s in SETTINGS if "epochs" not in s), tiny=False))


def test_a_summary_that_has_changed_since_the_run_is_not_taken_into_the_table(made, tmp_path):
    shutil.copytree(made, tmp_path / "out")
    path = tmp_path / "out" / "small-n5/lwf-ours-seed0/summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"average_accuracy": 99.0}))
    with pytest.raises(UserError, match=r"lwf-ours-seed0/summary\.json has changed since the run"):
        table_rows(asked(tmp_path / "out"))
