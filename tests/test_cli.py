"""The command line: what it refuses and how, its help, `compare` and `report`."""

import dataclasses
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pytest
from annotated_types import Gt
from PIL import Image

import mnemonics_jax
from mnemonics_jax import cli
from mnemonics_jax.config.presets import RECIPES, make_config
from mnemonics_jax.methods import METHODS
from mnemonics_jax.methods.lwf import LwF
from mnemonics_jax.reports import page as report_page
from mnemonics_jax.runtime.errors import UserError

RNG = np.random.default_rng(0)
TINY = (
    *("--net.widths", "8", "8", "--train.epochs", "2", "--train.batch-size", "64", "--train.learning-rate", "0.1"),
    *("--train.milestones", "0.6", "--train.chunk-steps", "8", "--data.crop-padding", "1", "--phases", "1"),
    *("--exemplars.per-class", "4", "--exemplars.unroll-length", "3", "--exemplars.inner-init", "reset_head"),
    *("--exemplars.inner-scope", "all", "--exemplars.inner-learning-rate", "0.1"),
    *("--exemplars.inner-momentum", "0.9", "--train.later-epochs", "None", "--train.balanced-steps", "0"),
)


def refused(capsys, *words):
    """The message with which these words are refused."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in words])
    assert caught.value.code == 2
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digit",), "unknown preset 'digit': did you mean 'digits'?"),
        (("zzzz",), "unknown preset 'zzzz': known are cifar10, cifar100, digits"),
        (("digits", "--method", "icar"), "unknown method 'icar': did you mean 'icarl'"),
        (("digits", "--exemplars", "herdin"), "unknown exemplar kind 'herdin': did you mean 'herding'?"),
        (("digits", "--recipe", "papr"), "unknown recipe 'papr': did you mean 'paper'"),
        (("digits", "--phases", "3"), "--phases 3 does not divide the 5 classes left .* choose --phases from 1, 5"),
        (("digits", "--phases", "0"), "--phases 0: has to be at least 1"),
        (("digits", "--base", "0"), "--base 0: has to be at least 1"),
        (("digits", "--base", "10"), "--base 10 .* from 1 to 9"),
        (("digits", "--exemplars.per-class", "0"), "--exemplars.per-class 0: has to be at least 1"),
        (("digits", "--exemplars.per-class", "-3"), "--exemplars.per-class -3: has to be at least 1"),
        (("digits", "--exemplars.per-class", "1000"), "per-class 1000 .* the smallest class has .* choose at most 1"),
        (("digits", "--exemplars.total", "9"), "--exemplars.total 9 leaves no exemplar .* choose at least 10"),
        (("digits", "--exemplars.unroll-length", "0"), "--exemplars.unroll-length 0: .* at least one step"),
        (("digits", "--exemplars.unroll-length", "-1"), "--exemplars.unroll-length -1: has to be at least 0"),
        (("digits", "--exemplars.unroll-length", "five"), "five"),
        (("digits", "--exemplars.inner-init", "heads"), "heads"),
        (("digits", "--train.epochs", "0"), "--train.epochs 0: has to be greater than 0"),
        (("digits", "--train.epoch", "1"), "--train.epoch"),
        (("digits", "--no-such-flag", "1"), "--no-such-flag"),
        (("digits", "--data.source", "foldr"), "unknown data source 'foldr': did you mean 'folder'"),
        (("digits", "--net.name", "resnet"), "unknown network 'resnet': did you mean 'resnet32'"),
        (("digits", "--net.widths", "0"), r"--net.widths\[0\] 0: has to be at least 1"),
        (("digits", "--save.every-steps", "0"), "--save.every-steps 0: has to be greater than 0"),
        (("digits", "--save.every-outer-steps", "-5"), "--save.every-outer-steps -5: has to be greater than 0"),
        (("digits", "--save.min-seconds", "nan"), "--save.min-seconds nan: has to be a finite number"),
        (("images",), "--data.path"),
        (("npz",), "--data.path"),
        (("images", "--data.path", "/no/such/folder"), "/no/such/folder does not exist"),
        (("npz", "--data.path", "/no/such/file.npz"), "/no/such/file.npz does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_bad_setting_is_refused_and_leaves_nothing(capsys, tmp_path, words, message):
    out = tmp_path / "out"
    assert re.search(message, refused(capsys, "run", *words, "--out", out))
    assert not out.exists()


def write_images(root, classes, size=8):
    for split, names in classes.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(RNG.integers(0, 256, (size, size, 3), np.uint8)).save(root / split / name / f"{i}.png")


def only_in_train(root):
    write_images(root, {"train": ["cat", "dog", "owl"], "test": ["cat", "dog"]})


def only_in_test(root):
    write_images(root, {"train": ["cat", "dog"], "test": ["cat", "dog", "owl"]})


def no_splits(root):
    root.mkdir()


def unreadable(root):
    write_images(root, {"train": ["cat", "dog"], "test": ["cat", "dog"]})
    (root / "train" / "cat" / "1.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_splits, "has no folder train/"),
        (only_in_train, "owl is only in train/"),
        (only_in_test, "owl is only in test/"),
        (unreadable, r"cat/1\.png"),
    ],
)
def test_a_bad_image_folder_is_refused(capsys, tmp_path, make, message):
    make(tmp_path / "data")
    arguments = ("--data.path", tmp_path / "data", "--base", "1", "--phases", "1", "--out", tmp_path / "out")
    assert re.search(message, refused(capsys, "run", "images", *arguments))
    assert not (tmp_path / "out").exists()


def arrays(**changes):
    images, labels = RNG.integers(0, 256, (8, 8, 8, 3), np.uint8), np.arange(8) % 2
    good = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    return {name: value for name, value in (good | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "lacks test_labels"),
        ({"train_images": np.zeros((8, 8, 8, 3), np.float32)}, "train_images is float32; it has to be uint8"),
        ({"train_images": np.zeros((8, 64), np.uint8)}, r"train_images has shape \[8, 64\]"),
        ({"test_images": np.zeros((8, 9, 9, 3), np.uint8)}, "differ in shape"),
        ({"train_labels": np.zeros(7, np.int64)}, "7 entries for 8 images"),
        ({"train_labels": np.linspace(0, 1, 8)}, "labels have to be integers"),
    ],
)
def test_a_bad_npz_is_refused(capsys, tmp_path, changes, message):
    np.savez(tmp_path / "data.npz", **arrays(**changes))
    arguments = ("--data.path", tmp_path / "data.npz", "--base", "1", "--phases", "1", "--out", tmp_path / "out")
    assert re.search(message, refused(capsys, "run", "npz", *arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "compare"])
def test_an_out_that_cannot_be_written_is_refused(capsys, tmp_path, command):
    (tmp_path / "file").write_text("")
    message = refused(capsys, command, "digits", "--out", tmp_path / "file" / "out")
    assert re.search(r"--out .*file/out.* cannot be used: Not a directory", message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("rum", "digits"),
            r"unknown command .rum.: did you mean .run.\? known are compare, export, report, run,",
        ),
        (("compare", "digits", "--methods", "icarl", "bick"), "unknown method 'bick': did you mean 'bic'"),
        (("compare", "digits", "--exemplars", "randm"), "unknown exemplar kind 'randm': did you mean 'random'"),
        (("compare", "digits", "--seeds", "0"), "--seeds 0: give at least 1"),
        (("compare", "digits", "--seeds", "1000000000000"), "--seeds 1000000000000: give at least 1 and at most 10000"),
        (("compare", "digits", "--seed", "3"), "--seed 3: a comparison runs the seeds from 0 on"),
        (("run", "digits", "--vmap-seeds", "1000000000000"), "--vmap-seeds 1000000000000: give at least 1 and"),
        (("run", "digits", "--out", ""), "--out is empty: give the name of a folder"),
        (("compare", "digits", "--out="), "--out is empty: give the name of a folder"),
        (("export", "x", "--to", ""), "--to is empty: give the name of a folder"),
        (("run", "digits", "--out", "s3://bucket/x"), "--out s3:/bucket/x is an address"),
        (("run", "digits", "--seed", "4294967296"), "--seed 4294967296: has to be at least 0 and less than 4294967296"),
        (("run", "digits", "--stream.order-seed", "-1"), "--stream.order-seed -1: has to be at least 0"),
        (("compare", "digits", "--phases", "3"), "--phases 3 does not divide"),
        (("report", "/no/such/folder"), "/no/such/folder is not a folder"),
        (("report",), "DIR"),
    ],
    ids=str,
)
def test_a_bad_command_is_refused(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refused(capsys, *words))
    assert not list(tmp_path.iterdir())


def test_a_folder_without_finished_runs_has_no_report(capsys, tmp_path):
    assert "no finished run" in refused(capsys, "report", tmp_path)


def test_numbers_gone_wrong_have_a_status_of_their_own(capsys, tmp_path):
    words = ("run", "digits", "--exemplars", "random", *TINY, "--train.learning-rate", "1e20", "--out", tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in words])
    assert caught.value.code == 3
    assert "not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--help",), ("run PRESET", "compare PRESET", "report RUN", "export RUN", "digits", "lucir")),
        (("--help",), ("sweep PRESET", "table", "--version")),
        (("sweep", "--help"), ("--sweep", "--list", "--herding", "--gpus-per-point", "PRESET")),
        (("run", "digits", "--help"), ("--config", "--recipe", "--method", "--verbose")),
        (("run", "--help"), ("digits", "images")),
        (
            ("run", "digits", "--help"),
            ("--exemplars.unroll-length", "--exemplars.outer-steps", "--train.epochs", "--out", "--save.every-steps"),
        ),
        (("run", "digits", "--method", "bic", "--help"), ("--method.holdout",)),
        (("compare", "digits", "--help"), ("--seeds", "--exemplars.unroll-length", "--phases", "--methods")),
        (
            ("compare", "digits", "--methods", "lwf", "bic", "lucir", "--exemplars", "herding", "mnemonics", "--help"),
            ("--method.distillation-weight", "--method.holdout", "--method.lambda-base", "--exemplars.anchor"),
        ),
        (("report", "--help"), ("RUN", "--out DIR", "report.html")),
        (("export", "--help"), ("RUN", "--to", "exemplars.npz")),
    ],
    ids=str,
)
def test_help_names_the_settings(capsys, words, named):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in named)


@pytest.mark.parametrize("command", ["run", "compare"])
def test_help_says_in_one_line_what_each_recipe_does(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([command, "cifar100", "--help"])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    lines = [line.split(maxsplit=1) for line in said.splitlines()]
    for name, recipe in RECIPES.items():
        assert [name, recipe.summary] in lines


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


@pytest.mark.parametrize("module", ["mnemonics_jax", "mnemonics_jax.cli"])
def test_the_module_is_the_command(module):
    command = [sys.executable, "-m", module, "run", "digit"]
    child = subprocess.run(command, check=False, capture_output=True, text=True)
    assert child.returncode == 2
    assert child.stderr.startswith("mnemonics: unknown preset 'digit'")
    assert "Traceback" not in child.stderr


def test_help_that_is_not_read_to_its_end_is_no_error():
    child = subprocess.Popen(
        [sys.executable, "-m", "mnemonics_jax", "compare", "digits", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child.stdout.close()  # before the program has begun to write
    _, said = child.communicate()
    assert (child.returncode, said) == (141, "")


HEAVY = ("jax", "flax", "optax", "orbax", "matplotlib", "tensorboardX", "sklearn", "pandas", "PIL.JpegImagePlugin")
NAMING = f"""
import sys
import mnemonics_jax
from mnemonics_jax import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
else:
    status = 0
print("ended", status, [name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("--help",), 0),
        (("--version",), 0),
        (("run", "digits", "--method", "bic", "--help"), 0),
        (("compare", "cifar100", "--help"), 0),
        (("sweep", "--help"), 0),
        (("report", "--help"), 0),
        (("rum",), 2),
        (("run", "digits", "--train.epoch", "3"), 2),
        (("run", "digits", "--train.epochs", "0"), 2),
        (("compare", "digits", "--train.epochs", "0"), 2),
        (("sweep", "digits", "--sweep", "train.epoch=3"), 2),
        (("export", "/no/such/folder"), 2),
        (("report", "/no/such/folder"), 2),
    ],
    ids=str,
)
def test_help_and_mistakes_wait_for_no_heavy_import(words, status):
    """A list of modules rather than a time, which depends on the machine."""
    child = subprocess.run([sys.executable, "-c", NAMING, *words], check=True, capture_output=True, text=True)
    assert child.stdout.splitlines()[-1] == f"ended {status} []"


def test_the_version_is_told(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"mnemonics_jax {mnemonics_jax.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--preset", "cifar100"), "the preset comes right after the command: `mnemonics run cifar100 ...`"),
        (("compare", "--seeds", "2", "digits"), "the preset comes right after the command: `mnemonics compare digits"),
        (("run", "--preset=npz"), "`mnemonics run npz ...`"),
        (("run", "--seed", "1"), "`mnemonics run digits ...`; `mnemonics run --help` lists the presets"),
    ],
    ids=str,
)
def test_a_preset_in_another_place_is_told_where_it_belongs(capsys, words, message):
    assert message in refused(capsys, *words)


def test_help_has_no_flag_for_the_preset(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "digits", "--help"])
    assert "--preset" not in capsys.readouterr().out


def test_only_the_folder_of_a_run_can_be_exported(capsys, tmp_path):
    assert "is not the folder of a run: it has no config.json; give the folder" in refused(capsys, "export", tmp_path)
    assert "does not exist; give the folder that `mnemonics run` wrote" in refused(capsys, "export", tmp_path / "none")


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


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of 2 methods × 2 kinds on 2 class orders."""
    out = tmp_path_factory.mktemp("compare")
    arms = ("--methods", "lwf", "icarl", "--exemplars", "random", "herding", "--seeds", "2")
    cli.main(["compare", "digits", *arms, *TINY, "--out", str(out)])
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


@pytest.mark.parametrize("words", [["export", "d" * 300, "--to", "a"], ["report", "d" * 300], ["run", "digits"]])
def test_a_name_too_long_for_a_file_is_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if words[0] == "run":
        words = [*words, "--out", "d" * 300]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "File name too long" in said[0]
