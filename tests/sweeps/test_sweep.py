"""Sweeps in one process: which runs they are, what is made of them, and what is told of failed points."""

import csv
import dataclasses
import json

import jax
import pytest
import tyro
from helpers import TINY_SETTINGS

from mnemonics_jax.cli import sweep as cli_sweep
from mnemonics_jax.config.presets import make_config
from mnemonics_jax.exemplars import learning
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.reports.own_files import SWEEP
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.sweeps import vmap_seeds
from mnemonics_jax.sweeps.compiled_memory import chunk_arguments, outer_step_bytes
from mnemonics_jax.sweeps.sweep import Sweep, label, parse_axes

SETTINGS = (*TINY_SETTINGS, "exemplars.outer_learning_rate=0.02", "stream.phases=1")

pytestmark = pytest.mark.usefixtures("short_trials")


def asked(out, *words):
    return tyro.cli(cli_sweep.SweepSettings, args=[*words, "--set", *SETTINGS, "--out", str(out)])


def test_axes_are_read_from_words():
    words = ["exemplars.unroll-length=1,2,5", "exemplars.inner_init=current,reset_head", "net.widths=8:16,16:32"]
    assert parse_axes(words) == {
        "exemplars.unroll_length": ("1", "2", "5"),
        "exemplars.inner_init": ("current", "reset_head"),
        "net.widths": ("8:16", "16:32"),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exemplars.unroll_length"], "--sweep exemplars.unroll_length: give FIELD=VALUE"),
        (["exemplars.unroll_length=1,,2"], "give each value of exemplars.unroll_length once"),
        (["exemplars.unroll_length=1,1"], "give each value of exemplars.unroll_length once"),
        (["train.epochs=1", "train.epochs=2"], "give each setting once"),
        ([], "give each setting once"),
        (["seed=1,2"], "--sweep seed"),
    ],
    ids=str,
)
def test_bad_axes_are_refused(words, message):
    with pytest.raises(UserError) as caught:
        parse_axes(words)
    assert message in str(caught.value)


def test_points_are_the_product_and_share_runs_with_herding():
    axes = parse_axes(["exemplars.outer_steps=1,2", "exemplars.unroll_length=3,4"])
    sweep = Sweep(axes, "digits", "bic", {"train.epochs": "7", "exemplars.anchor": "0.5"}, 2, herding=True)
    assert [label(point) for point in sweep.points()] == [
        f"outer_steps={steps},unroll_length={length}" for steps in (1, 2) for length in (3, 4)
    ]
    jobs = {job.name: job.config for job in sweep.jobs()}
    # Herding knows no outer steps: two points of one unroll length are compared with the same run.
    assert list(jobs)[:6] == [
        "herding/unroll_length=3/seed0",
        "outer_steps=1,unroll_length=3/seed0",
        "herding/unroll_length=4/seed0",
        "outer_steps=1,unroll_length=4/seed0",
        "outer_steps=2,unroll_length=3/seed0",
        "outer_steps=2,unroll_length=4/seed0",
    ]
    assert len(jobs) == 12
    default = make_config("digits", "bic", "mnemonics")
    expected = dataclasses.replace(
        default,
        seed=1,
        train=dataclasses.replace(default.train, epochs=7),
        exemplars=dataclasses.replace(default.exemplars, outer_steps=2, unroll_length=3, anchor=0.5),
    )
    assert jobs["outer_steps=2,unroll_length=3/seed1"] == expected
    herded = jobs["herding/unroll_length=3/seed1"]
    assert (herded.exemplars.name, herded.exemplars.unroll_length, herded.train.epochs) == ("herding", 3, 7)


def test_every_point_has_the_recipe_that_is_asked_for():
    sweep = Sweep(parse_axes(["exemplars.unroll_length=3,4"]), "digits", "lucir", {}, 1, herding=True, recipe="paper")
    for job in sweep.jobs():
        kind = job.config.exemplars.name
        own = make_config("digits", "lucir", kind, "paper")
        exemplars = dataclasses.replace(own.exemplars, unroll_length=job.config.exemplars.unroll_length)
        assert job.config == dataclasses.replace(own, exemplars=exemplars)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"exemplars.unrol_length": ("1",)}, "did you mean 'exemplars.unroll_length'"),
        ({"exemplars.unroll_length": ("1", "two")}, "exemplars.unroll_length 'two': has to be an integer"),
    ],
)
def test_a_mistake_in_a_point_is_refused(axes, message):
    with pytest.raises(UserError) as caught:
        Sweep(axes, "digits", None, {}, 1).jobs()
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep over epochs and kinds of start, and its exit status."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    words = ("--sweep", "train.epochs=1,2", "--seeds", "2", "--method", "lwf", "--herding")
    return out, cli_sweep.run(asked(out, *words))


def figures(out, name, key):
    return [json.loads((out / name / f"seed{seed}" / "summary.json").read_text())[key] for seed in (0, 1)]


def test_a_point_has_means_errors_gains_and_memory(swept):
    out, status = swept
    assert status == 0
    written = json.loads((out / "sweep.json").read_text())
    assert written["sweep"]["axes"] == {"train.epochs": ["1", "2"]}
    assert [point["settings"] for point in written["points"]] == [{"train.epochs": "1"}, {"train.epochs": "2"}]
    for point in written["points"]:
        name = f"epochs={point['settings']['train.epochs']}"
        forgetting = ("forgetting", "average_forgetting", "backward_transfer")
        for key in ("average_accuracy", "average_accuracy_exemplar_model", *forgetting):
            one, two = figures(out, name, key)
            assert point[key] == {"0": one, "1": two}
            assert point[f"{key}_mean"] == pytest.approx((one + two) / 2)
            assert point[f"{key}_sem"] == pytest.approx(abs(one - two) / 2)
        for suffix in ("", "_exemplar_model"):
            key = f"average_accuracy{suffix}"
            gains = [a - b for a, b in zip(figures(out, name, key), figures(out, f"herding/{name}", key), strict=True)]
            assert point[f"gain{suffix}_mean"] == pytest.approx(sum(gains) / 2)
            assert point[f"gain{suffix}_sem"] == pytest.approx(abs(gains[0] - gains[1]) / 2)
        # The first phase was trained by the run with herding, and is counted here as well.
        own = figures(out, name, "seconds")
        shared = [value["seconds"] for value in figures(out, name, "shared_base_model")]
        assert list(point["seconds"].values()) == pytest.approx([a + b for a, b in zip(own, shared, strict=True)])
        assert point["seconds_least"] == pytest.approx(min(point["seconds"].values()))
        assert point["outer_step_bytes"] > 0
        assert point["failures"] == {}


def test_the_results_are_written_as_table_and_plot(swept):
    out = swept[0]
    lines = (out / "sweep.md").read_text().splitlines()
    assert lines[0].startswith("# digits, lwf, 2 class orders, net.widths=8,8 train.epochs=2")
    rows = [line.split("|") for line in lines if line.startswith(("| 1 |", "| 2 |"))]
    assert len(rows) == 2
    one, two = figures(out, "epochs=2", "average_accuracy")
    assert rows[1][3].strip() == f"{(one + two) / 2:.2f} ± {abs(one - two) / 2:.2f}"
    with (out / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["train.epochs"] for row in table] == ["1", "2"]
    assert float(table[1]["average_accuracy_mean"]) == pytest.approx((one + two) / 2)
    latex = (out / "sweep.tex").read_text()
    assert latex.count(r"\toprule") == latex.count(r"\begin{tabular}{lrrrrrrrrrr}") == 1
    assert f"{(one + two) / 2:.2f} $\\pm$ {abs(one - two) / 2:.2f}" in latex
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    # The next call knows each of them as its own.
    SWEEP.check(out)


def test_seeds_at_once_give_the_same_figures(swept, tmp_path, monkeypatch):
    monkeypatch.setattr(vmap_seeds, "pays", lambda: True)
    words = ("--sweep", "train.epochs=2", "--seeds", "2", "--method", "lwf", "--vmap-seeds")
    assert cli_sweep.run(asked(tmp_path, *words)) == 0
    # A rounding may decide a test image or two of 900.
    for mine, theirs in zip(
        *(figures(out, "epochs=2", "average_accuracy") for out in (tmp_path, swept[0])), strict=True
    ):
        assert mine == pytest.approx(theirs, abs=0.5)


def test_seeds_at_once_are_not_for_ray(tmp_path):
    with pytest.raises(UserError, match="--vmap-seeds: Ray gets"):
        cli_sweep.run(asked(tmp_path, "--sweep", "train.epochs=2", "--executor", "ray", "--vmap-seeds"))


def test_a_failed_point_is_told_and_the_others_stand(tmp_path, capsys):
    """Not finite from the first step on, as often as it is tried."""
    words = ("--sweep", "train.learning_rate=0.1,1e20", "--seeds", "1", "--method", "lwf")
    assert cli_sweep.run(asked(tmp_path, *words)) == 3
    said = capsys.readouterr()
    assert "- train.learning_rate=1e20, seed 0: phase 0: the training loss is not finite" in said.out
    assert "learning_rate=1e20/seed0 failed: phase 0" in " ".join(said.err.split())
    good, bad = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert (good["seeds"], good["failures"]) == ([0], {})
    assert (bad["seeds"], bad["average_accuracy_mean"], bad["outer_step_bytes"]) == ([], None, None)
    assert cli_sweep.run(asked(tmp_path, *words)) == 3
    assert "[2/2] learning_rate=1e20/seed0: warning: failed" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("changes", [{}, {"inner_batch": 8, "group_classes": 3}], ids=str)
def test_memory_is_that_of_the_program_which_learns(tiny, monkeypatch, changes):
    """The shapes it is compiled for are those of a real call."""
    setup = tiny.setup("lwf", "mnemonics", train={"epochs": 1}, exemplars=changes)
    calls = []

    class Called(Exception):
        pass

    def learn_chunk(*arguments):
        calls.append(arguments)
        raise Called

    monkeypatch.setattr(learning, "learn_chunk", learn_chunk)
    with pytest.raises(Called):
        run_phase(setup, initial_state(setup), NoCallbacks())
    (real,), shapes = calls, chunk_arguments(setup)
    assert real[0] == shapes[0]
    assert jax.tree.structure(real) == jax.tree.structure(shapes)
    for a, b in zip(jax.tree.leaves(real[1:]), jax.tree.leaves(shapes[1:]), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    if not changes:
        pixels = 10 * 4 * 8 * 8 * 4
        assert outer_step_bytes(setup) > 2 * pixels
