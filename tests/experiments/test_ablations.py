"""The scripts that measure what learned exemplars are worth: which runs they compare, and their arithmetic."""

import csv
import json

import numpy as np
import pytest
from helpers import EXPERIMENTS, TINY_SETTINGS, load_script

from mnemonics_jax.runtime.errors import UserError

SETTINGS = (*TINY_SETTINGS, "exemplars.inner_init=reset_head", "exemplars.anchor=0")

ablations = load_script(EXPERIMENTS / "ablations.py")
CONTROLS = [ablations.NO_MEMORY, ablations.RANDOM, ablations.JOINT]


def plan(*methods, seeds=(0, 1), **fixed):
    return ablations.Ablations("digits", fixed, list(methods), list(seeds))


@pytest.mark.parametrize("table", list(ablations.TABLES))
def test_every_row_is_paired_with_herding_that_differs_in_the_kind_alone(table):
    one = plan("lwf")
    for row in [*CONTROLS, *ablations.TABLES[table][1]]:
        mine, theirs = (one.config(r, "lwf", 1) for r in (row, one.twin(row)))
        mine.validate()
        theirs.validate()
        assert theirs.exemplars.name == "herding"
        assert theirs.method.name == "lwf"
        if row.method:
            continue
        assert (mine.seed, mine.train, mine.net, mine.data) == (theirs.seed, theirs.train, theirs.net, theirs.data)
        for name in ("per_class", "unroll_length", "inner_init", "inner_scope", "inner_augment", "inner_batch"):
            assert getattr(mine.exemplars, name) == getattr(theirs.exemplars, name)


def test_every_row_has_the_recipe_that_is_asked_for(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(ablations.Ablations, "jobs", lambda self, tables: made.append(self) or [])
    words = ["gain", "--recipe", "paper", "--methods", "lwf", "--list", "--out", str(tmp_path)]
    assert ablations.main(words) == 0
    config = made[0].config(ablations.Row("learned"), "lwf", 0)
    assert (config.recipe, config.exemplars.inner_init, config.net.weight_transfer) == ("paper", "current", True)


def test_runs_that_several_rows_ask_for_are_run_once():
    one = plan("lwf", "lucir")
    names = [job.name for job in one.jobs(["kinds", "anchor", "gain"])]
    assert len(names) == len(set(names))
    anchors = len(ablations.TABLES["anchor"][1])
    # Random, herding, gradient, learned and the anchors but for the preset's own, for two methods and two seeds; no
    # memory and all data for two seeds.
    assert len(names) == (4 + anchors - 1) * 4 + 2 * 2
    assert len({repr(job.config) for job in one.jobs(["unroll"])}) == len(one.jobs(["unroll"]))


def test_a_table_has_means_standard_errors_and_paired_differences(tmp_path):
    one = plan("lwf", seeds=(0, 1, 2))
    row = ablations.Row("learned")
    figures = {"learned": [50.0, 61.0, 57.0], "herding": [49.0, 58.0, 58.0]}
    summaries = {}
    for label, values in figures.items():
        for seed, value in enumerate(values):
            name = one.job(row if label == "learned" else one.twin(row), "lwf", seed).name
            summaries[name] = dict.fromkeys(ablations.COLUMNS, value) | {"seconds": 1.0}
    text = ablations.write_table("gain", one, summaries, tmp_path)
    difference = np.array([1.0, 3.0, -1.0])
    assert f"{difference.mean():+.2f} ± {difference.std(ddof=1) / np.sqrt(3):.2f}" in text
    assert "| lwf | learned | 3 | 56.00 ± 3.21 |" in text
    with (tmp_path / "gain.csv").open() as file:
        line = list(csv.DictReader(file))[-1]
    row_of_json = json.loads((tmp_path / "gain.json").read_text())[-1]
    assert float(line["average_accuracy"]) == row_of_json["average_accuracy"]
    assert (tmp_path / "gain.tex").read_text().count(r"\toprule") == 3
    for key in ("forgetting", "average_forgetting", "backward_transfer"):
        assert float(line[f"{key}_gain"]) == float(line[f"{key}_exemplar_model_gain"]) == pytest.approx(1.0)
    for heading in ("forgetting (base classes) Θ", "forgetting (average) Θ", "backward transfer Θᴱ"):
        assert f"| {heading} |" in text
    ablations.own_files("gain").check(tmp_path)
    # A class order that only one side has is left out.
    del summaries[one.job(row, "lwf", 2).name]
    assert "| lwf | learned | 2 | 55.50 ± 5.50 |" in ablations.write_table("gain", one, summaries, tmp_path)


@pytest.mark.parametrize(
    ("random", "words"),
    [([50.0, 61.0, 56.0], "tells exemplars apart"), ([60.0, 62.0, 58.0], "too little to tell exemplars apart")],
)
def test_a_table_says_whether_its_regime_can_tell_random_from_herding(tmp_path, random, words):
    one, herding, summaries = plan("lwf", seeds=(0, 1, 2)), [59.0, 70.0, 64.0], {}
    for row, values in ((ablations.RANDOM, random), (ablations.HERDING, herding)):
        for seed, value in enumerate(values):
            summaries[one.job(row, "lwf", seed).name] = dict.fromkeys(ablations.COLUMNS, value) | {"seconds": 1.0}
    difference = np.subtract(random, herding)
    figure = f"{difference.mean():+.2f} ± {difference.std(ddof=1) / np.sqrt(3):.2f}".replace("-", "−")
    text = ablations.write_table("gain", one, summaries, tmp_path)
    assert f"- lwf: random exemplars differ from herding by {figure}: " in text
    assert words in text.splitlines()[-1]


def test_the_best_of_what_competes_is_bold_and_a_bound_is_not(tmp_path):
    one, summaries = plan("lwf", seeds=(0,)), {}
    for row, value in ((ablations.JOINT, 99.0), (ablations.RANDOM, 60.0), (ablations.HERDING, 70.0)):
        summaries[one.job(row, "lwf", 0).name] = dict.fromkeys(ablations.COLUMNS, value) | {"seconds": 1.0}
    ablations.write_table("gain", one, summaries, tmp_path)
    lines = (tmp_path / "gain.tex").read_text().splitlines()
    bold = [line for line in lines if "textbf" in line]
    assert [line.split(" & ")[1] for line in bold] == ["herding", *("random", "herding") * 2]
    assert "\\textbf{70.00} & \\textbf{70.00}" in bold[0]


def test_exemplars_are_learned_without_the_gate_unless_it_is_asked_for():
    learned = ablations.Row("learned")
    assert not plan("lwf").config(learned, "lwf", 0).exemplars.gate
    assert plan("lwf", **{"exemplars.gate": "true"}).config(learned, "lwf", 0).exemplars.gate
    assert [plan("lwf").config(row, "lwf", 0).exemplars.gate for row in ablations.TABLES["gate"][1]] == [False, True]


def test_runs_of_an_older_version_leave_their_place_empty(tmp_path):
    one, row = plan("lwf"), ablations.Row("learned")
    names = [one.job(side, "lwf", seed).name for side in (row, one.twin(row)) for seed in (0, 1)]
    old = {key: 50.0 for key in ablations.COLUMNS if "average_forgetting" not in key and "backward" not in key}
    text = ablations.write_table("gain", one, dict.fromkeys(names, old | {"seconds": 1.0}), tmp_path)
    zero = "+0.00 ± 0.00"
    assert f"| lwf | learned | 2 | 50.00 ± 0.00 |  |  | {zero} |  |  |" in text
    with (tmp_path / "gain.csv").open() as file:
        line = list(csv.DictReader(file))[-1]
    assert (line["forgetting"], line["average_forgetting"], line["backward_transfer_gain"]) == ("50.0", "", "")


def test_the_script_runs_and_goes_on(tmp_path, capsys):
    words = [
        "gain",
        "--methods",
        "icarl",
        "--seeds",
        "1",
        "--set",
        *SETTINGS,
        "stream.phases=1",
        "--out",
        str(tmp_path),
    ]
    assert ablations.main([*words, "--list"]) == 0
    assert capsys.readouterr().out.count("to do") == 5
    assert ablations.main(words) == 0
    first = capsys.readouterr().out
    for label in ("no memory", "random", "herding", "all data", "learned"):
        assert f"| icarl | {label} | 1 |" in first
    assert "- icarl: one class order cannot tell random from herded exemplars." in first
    assert first.strip() == (tmp_path / "gain.md").read_text().strip()
    assert ablations.main([*words, "--list"]) == 0
    assert capsys.readouterr().out.count("done ") == 5


def test_seeds_is_a_count_from_the_first_seed_on(tmp_path, capsys):
    words = ["gain", "--methods", "lwf", "--seeds", "2", "--first-seed", "3", "--out", str(tmp_path), "--list"]
    assert ablations.main(words) == 0
    assert {line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines()} == {"seed3", "seed4"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "finetune"], "finetune keeps no exemplars"),
        (["--set", "train.epochs"], "give FIELD=VALUE"),
        (["--set", "train.epoch=3"], "train.epoch"),
        (["--preset", "digit"], "digit"),
        (["--recipe", "papr"], "unknown recipe 'papr': did you mean 'paper'"),
        (["--seeds", "0"], "--seeds 0: give at least 1"),
    ],
)
def test_mistakes_are_told_before_anything_runs(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        ablations.main(["gain", *words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
