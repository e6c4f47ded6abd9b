"""What `compare` makes of its words, and what it and `report` write."""

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
from annotated_types import Gt
from helpers import TINY_FLAGS, refused

from mnemonics_jax import cli
from mnemonics_jax.config.presets import make_config
from mnemonics_jax.methods import METHODS
from mnemonics_jax.methods.lwf import LwF
from mnemonics_jax.reports import page as report_page
from mnemonics_jax.runtime.errors import UserError


class Planned(Exception):
    """Carries the configurations of a comparison by method and kind, in place of its runs."""


@pytest.fixture
def plan(monkeypatch):
    """Gives the configurations that `compare digits` makes of some words, by arm."""

    def record(arms, *_, **__):
        raise Planned(arms)

    def planned(*words, preset="digits"):
        with pytest.raises(Planned) as caught:
            cli.main(["compare", preset, *words])
        return caught.value.args[0]

    monkeypatch.setattr("mnemonics_jax.sweeps.comparison.compare", record)
    monkeypatch.setattr("mnemonics_jax.runtime.compile_cache.use_persistent_cache", lambda: None)
    return planned


@dataclass(frozen=True)
class WarmLwF(LwF):
    """LwF with another default, as a method of one's own may have it."""

    name: ClassVar[str] = "warm"
    temperature: Annotated[float, Gt(0)] = 3.0


def test_arms_keep_their_defaults_and_take_what_is_given(plan, monkeypatch):
    monkeypatch.setitem(METHODS, "warm", WarmLwF)
    arms = ("--methods", "lwf", "warm", "--exemplars", "herding")
    assert [config.method.temperature for config in plan(*arms).values()] == [2.0, 3.0]
    # What is given holds for all, though it is the first one's default already, or the second one's.
    for value in ("2", "3", "4"):
        found = plan(*arms, "--method.temperature", value)
        assert [config.method.temperature for config in found.values()] == [float(value)] * 2


def test_defaults_of_a_preset_belong_to_their_method(plan):
    found = plan("--methods", "lwf", "lucir", "--exemplars", "herding", "mnemonics", preset="imagenet")
    for (method, kind), config in found.items():
        assert config == make_config("imagenet", method, kind)


def test_the_recipe_is_that_of_every_arm(plan):
    found = plan("--methods", "lwf", "lucir", "--exemplars", "herding", "mnemonics", "--recipe", "paper")
    for (method, kind), config in found.items():
        assert config == dataclasses.replace(make_config("digits", method, kind, "paper"), seed=config.seed)


def test_a_flag_of_one_arm_is_for_that_arm(plan):
    arms = ("--methods", "lwf", "bic", "lucir", "--exemplars", "herding", "mnemonics")
    given = (
        "--method.lambda-base",
        "0.3",
        "--method.holdout=0.3",
        "--exemplars.outer_steps",
        "5",
        "--train.epochs",
        "7",
    )
    for (method, kind), config in plan(*arms, *given, "--exemplars.adjust").items():
        own = make_config("digits", method, kind)
        changes = {"lucir": {"lambda_base": 0.3}, "bic": {"holdout": 0.3}, "lwf": {}}[method]
        assert config.method == dataclasses.replace(own.method, **changes)
        changes = {"mnemonics": {"outer_steps": 5, "adjust": True}, "herding": {}}[kind]
        assert config.exemplars == dataclasses.replace(own.exemplars, **changes)
        assert config.train == dataclasses.replace(own.train, epochs=7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method.lambda-bas", "7"), "--method.lambda-base"),
        (("--method.holdout", "0.2"), "--method.holdout"),
        (("--exemplars.anchr", "7"), "--exemplars.anchor"),
        (("--exemplars.anchor", "7", "8"), "8"),
        (("--method.lambda-base", "many"), "many"),
        (("--train.epochs", "3", "3"), "3"),
    ],
    ids=str,
)
def test_words_that_no_arm_knows_are_refused(plan, capsys, words, message):
    arms = ("--methods", "lwf", "lucir", "--exemplars", "herding", "mnemonics")
    assert message in refused(capsys, "compare", "digits", *arms, *words)


def test_a_run_has_the_recipe_that_is_asked_for(monkeypatch):
    ran = []

    def record(config, out, *_):
        ran.append((config, out))
        raise Planned

    monkeypatch.setattr("mnemonics_jax.runs.runner.run_in_folder", record)
    monkeypatch.setattr("mnemonics_jax.runtime.compile_cache.use_persistent_cache", lambda: None)
    for words in ((), ("--recipe", "paper", "--seed", "3")):
        with pytest.raises(Planned):
            cli.main(["run", "digits", "--method", "lucir", *words])
    (first, out), (second, other) = ran
    assert first == make_config("digits", "lucir")
    assert second == dataclasses.replace(make_config("digits", "lucir", recipe="paper"), seed=3)
    assert re.fullmatch(r"digits-lucir-mnemonics-seed0-[0-9a-f]{6}", out.name)
    assert re.fullmatch(r"digits-lucir-mnemonics-paper-seed3-[0-9a-f]{6}", other.name)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of 2 methods × 2 kinds on 2 class orders."""
    out = tmp_path_factory.mktemp("compare")
    arms = ("--methods", "lwf", "icarl", "--exemplars", "random", "herding", "--seeds", "2")
    cli.main(["compare", "digits", *arms, *TINY_FLAGS, "--out", str(out)])
    return out


def summary(folder, name):
    return json.loads((folder / name / "summary.json").read_text())


def test_compare_writes_a_row_for_each_arm(compared):
    rows = json.loads((compared / "comparison.json").read_text())
    arms = {(row["method"], row["exemplars"]): row for row in rows}
    assert set(arms) == {(m, k) for m in ("lwf", "icarl") for k in ("random", "herding")}
    assert (compared / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    for (method, kind), row in arms.items():
        runs = [summary(compared, f"{method}-{kind}-seed{seed}") for seed in (0, 1)]
        herding = [summary(compared, f"{method}-herding-seed{seed}") for seed in (0, 1)]
        one, two = (run["average_accuracy"] for run in runs)
        assert row["seeds"] == 2
        assert row["average_accuracy_mean"] == pytest.approx((one + two) / 2)
        # Two values differ from their mean by half their distance: s = |a − b| / √2, and s / √2 = |a − b| / 2.
        assert row["average_accuracy_sem"] == pytest.approx(abs(one - two) / 2)
        for key in ("forgetting", "average_forgetting", "backward_transfer"):
            assert row[f"{key}_mean"] == pytest.approx(sum(run[key] for run in runs) / 2)
        gains = [run["average_accuracy"] - base["average_accuracy"] for run, base in zip(runs, herding, strict=True)]
        if kind == "herding":
            assert row["paired_gain_vs_herding_mean"] is row["paired_gain_vs_herding_sem"] is None
        else:
            assert row["paired_gain_vs_herding_mean"] == pytest.approx(sum(gains) / 2)
            assert row["paired_gain_vs_herding_sem"] == pytest.approx(abs(gains[0] - gains[1]) / 2)


def closed(*_):
    raise UserError("left closed")


def test_report_rebuilds_both_files_from_the_summaries(compared, capsys, monkeypatch):
    before = json.loads((compared / "comparison.json").read_text())
    (compared / "comparison.json").unlink()
    (compared / "accuracy.png").unlink()
    monkeypatch.setattr("mnemonics_jax.runs.runner.run_in_folder", None)
    # What checkpoints add to a report is the concern of tests/reports.
    monkeypatch.setattr(report_page, "load_figure_data", closed)
    cli.main(["report", str(compared)])
    assert json.loads((compared / "comparison.json").read_text()) == before
    assert (compared / "accuracy.png").stat().st_size > 1000
    assert "icarl" in capsys.readouterr().out
