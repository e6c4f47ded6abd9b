"""What the command line refuses, and how."""

import re

import numpy as np
import pytest
from helpers import TINY_FLAGS, refused
from PIL import Image

from mnemonics_jax import cli

RNG = np.random.default_rng(0)


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
    words = ("run", "digits", "--exemplars", "random", *TINY_FLAGS, "--train.learning-rate", "1e20", "--out", tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in words])
    assert caught.value.code == 3
    assert "not finite" in capsys.readouterr().err


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


def test_only_the_folder_of_a_run_can_be_exported(capsys, tmp_path):
    assert "is not the folder of a run: it has no config.json; give the folder" in refused(capsys, "export", tmp_path)
    assert "does not exist; give the folder that `mnemonics run` wrote" in refused(capsys, "export", tmp_path / "none")


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
