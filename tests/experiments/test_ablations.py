"""The scripts that measure what learned exemplars are worth: which runs they compare, and their arithmetic."""

import csv

import numpy as np
import pytest
from helpers import EXPERIMENTS, TINY_SETTINGS, load_script

from mnemonics_jax.runtime.errors import UserError

SETTINGS = (*TINY_SETTINGS, "exemplars.inner_init=reset_head", "exemplars.anchor=0")

ablations, exemplar_probe = (load_script(EXPERIMENTS / f"{name}.py") for name in ("ablations", "exemplar_probe"))


def plan(*methods, seeds=(0, 1), **fixed):
    return ablations.Ablations("digits", fixed, list(methods), list(seeds))


@pytest.mark.parametrize("table", list(ablations.TABLES))
def test_every_row_is_paired_with_herding_that_differs_in_the_kind_alone(table):
    one = plan("lwf")
    for row in ablations.TABLES[table][1]:
        mine, theirs = (one.config(r, "lwf", 1) for r in (row, one.twin(row)))
        mine.validate()
        theirs.validate()
        assert theirs.exemplars.name == "herding"
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
    # Random, herding, learned and the anchors but for the preset's own, for two methods and two seeds.
    assert len(names) == (3 + anchors - 1) * 4
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
        (line,) = csv.DictReader(file)
    for key in ("forgetting", "average_forgetting", "backward_transfer"):
        assert float(line[f"{key}_gain"]) == float(line[f"{key}_exemplar_model_gain"]) == pytest.approx(1.0)
    for heading in ("forgetting (base classes) Θ", "forgetting (average) Θ", "backward transfer Θᴱ"):
        assert f"| {heading} |" in text
    # A class order that only one side has is left out.
    del summaries[one.job(row, "lwf", 2).name]
    assert "| lwf | learned | 2 | 55.50 ± 5.50 |" in ablations.write_table("gain", one, summaries, tmp_path)


def test_runs_of_an_older_version_leave_their_place_empty(tmp_path):
    one, row = plan("lwf"), ablations.Row("learned")
    names = [one.job(side, "lwf", seed).name for side in (row, one.twin(row)) for seed in (0, 1)]
    old = {key: 50.0 for key in ablations.COLUMNS if "average_forgetting" not in key and "backward" not in key}
    text = ablations.write_table("gain", one, dict.fromkeys(names, old | {"seconds": 1.0}), tmp_path)
    zero = "+0.00 ± 0.00"
    assert f"| lwf | learned | 2 | 50.00 ± 0.00 |  |  | {zero} |  |  |" in text
    with (tmp_path / "gain.csv").open() as file:
        (line,) = csv.DictReader(file)
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
    assert capsys.readouterr().out.count("to do") == 2
    assert ablations.main(words) == 0
    first = capsys.readouterr().out
    assert "| icarl | learned | 1 |" in first
    assert first.strip() == (tmp_path / "gain.md").read_text().strip()
    assert ablations.main([*words, "--list"]) == 0
    assert capsys.readouterr().out.count("done ") == 2


def test_seeds_is_a_count_from_the_first_seed_on(tmp_path, capsys):
    words = ["gain", "--methods", "lwf", "--seeds", "2", "--first-seed", "3", "--out", str(tmp_path), "--list"]
    assert ablations.main(words) == 0
    assert {line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines()} == {"seed3", "seed4"}


def test_the_probe_needs_a_class_order():
    with pytest.raises(UserError, match="--seeds 0: at least one"):
        exemplar_probe.main(["--seeds", "0"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "finetune"], "finetune keeps no exemplars"),
        (["--set", "train.epochs"], "give FIELD=VALUE"),
        (["--set", "train.epoch=3"], "train.epoch"),
        (["--preset", "digit"], "digit"),
        (["--recipe", "papr"], "unknown recipe 'papr': did you mean 'paper'"),
        (["--seeds", "0"], "--seeds 0: at least one"),
    ],
)
def test_mistakes_are_told_before_anything_runs(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        ablations.main(["gain", *words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_probes_tell_good_exemplars_from_useless_ones(tiny):
    """Exemplars with shuffled labels have all that good ones have but their meaning."""
    setup = tiny.setup("lwf", "herding", train={"epochs": 6, "later_epochs": 1})
    end, forgetful = exemplar_probe.two_models(setup, exemplar_probe.NoCallbacks())
    state = exemplar_probe.run_phase(setup, end, exemplar_probe.NoCallbacks())
    good = exemplar_probe.probe(setup, state, forgetful, 60, 10)
    images = state.memory.images.copy()
    images[:5] = images[[1, 2, 3, 4, 0]]
    bad = exemplar_probe.probe(setup, state._replace(memory=state.memory._replace(images=images)), forgetful, 60, 10)
    for probe, one, other in zip(exemplar_probe.PROBES, good, bad, strict=True):
        assert one > other + 10, probe


def test_probe_table_pairs_with_herding(capsys):
    figures = {"herding": [[50.0] * 4, [60.0] * 4], "learned": [[53.0] * 4, [61.0] * 4]}
    table = exemplar_probe.table_of(figures)
    assert list(table.columns[1].cells) == ["55.0 ± 5.0", "57.0 ± 4.0 (+2.0 ± 1.0)"]
