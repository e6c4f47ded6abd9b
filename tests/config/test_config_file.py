"""config.json read back: what it gives, and what is said about files that cannot be used."""

import dataclasses
import json

import pytest

from mnemonics_jax import cli
from mnemonics_jax.config.parsing import read_config
from mnemonics_jax.config.presets import PRESETS, make_config
from mnemonics_jax.exemplars import EXEMPLARS
from mnemonics_jax.methods import METHODS
from mnemonics_jax.runtime.errors import UserError


@pytest.mark.parametrize("preset", PRESETS)
def test_every_configuration_comes_back(tmp_path, preset):
    for method in METHODS:
        for kind in EXEMPLARS:
            config = make_config(preset, method, kind)
            if config.data.source in ("folder", "npz"):
                config = dataclasses.replace(config, data=dataclasses.replace(config.data, path="DIR"))
            (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
            assert read_config(tmp_path / "config.json") == config


def test_fields_that_are_not_there_have_their_defaults(tmp_path):
    config = make_config("digits", "bic", "mnemonics")
    plain = config.to_dict()
    for name in ("temperature", "holdout"):
        del plain["method"][name]
    (tmp_path / "config.json").write_text(json.dumps(plain))
    assert read_config(tmp_path / "config.json").method == config.method


def spoilt(**changes):
    """A config.json with some values changed, by dotted name; None removes."""
    plain = json.loads(json.dumps(make_config("digits", "bic", "mnemonics").to_dict()))
    for name, value in changes.items():
        *parents, last = name.split("__")
        part = plain
        for parent in parents:
            part = part[parent]
        if value is ...:
            del part[last]
        else:
            part[last] = value
    return json.dumps(plain)


BAD_FILES = [
    ("no file", None, "cannot be read: No such file"),
    ("empty", "", "is not valid JSON"),
    ("cut", spoilt()[:100], "is not valid JSON"),
    ("no text", b"\xff\xfe\x00", "is not valid JSON"),
    ("a list", "[]", "holds list instead of an object"),
    ("a number", "5", "holds int instead of an object"),
    ("very deep", "[" * 100_000, "is not valid JSON"),
    ("unknown part", spoilt(trian={}), "unknown setting 'trian': did you mean 'train'"),
    ("unknown field", spoilt(train__epoch=3), "unknown setting 'train.epoch': did you mean 'train.epochs'"),
    ("unknown method", spoilt(method__name="bick"), "unknown method 'bick': did you mean 'bic'"),
    ("no method name", spoilt(method__name=...), "unknown method ''"),
    ("method is text", spoilt(method="bic"), "method 'bic': has to be an object"),
    ("unknown kind", spoilt(exemplars__name=["x"]), "unknown exemplar kind"),
    ("part missing", spoilt(train=...), "train is missing"),
    ("text for a number", spoilt(train__epochs="9"), "train.epochs '9': has to be an integer"),
    ("fraction", spoilt(train__epochs=1.5), "train.epochs 1.5: has to be an integer"),
    ("true for a number", spoilt(train__epochs=True), "train.epochs True: has to be an integer"),
    ("number for true", spoilt(data__flip=1), "data.flip 1: has to be true or false"),
    ("null", spoilt(train__decay=None), "train.decay None: has to be a number"),
    ("list for a number", spoilt(seed=[0]), "seed [0]: has to be an integer"),
    (
        "not in the list",
        spoilt(exemplars__inner_init="heads"),
        "exemplars.inner_init 'heads': has to be one of ridge, class_means",
    ),
    ("wrong item", spoilt(train__milestones=[0.5, "x"]), "train.milestones[1] 'x': has to be a number"),
    (
        "number for a list",
        spoilt(train__milestones=0.5),
        "train.milestones 0.5: has to be a tuple (as text 8,16) each of which is a number",
    ),
    ("text for a path", spoilt(data__path=5), "data.path 5: has to be text or none"),
    ("out of range", spoilt(train__epochs=0), "train.epochs 0: has to be greater than 0"),
    (
        "contradiction",
        spoilt(train__milestones=[0.7, 0.5]),
        "--train.milestones (0.7, 0.5): give fractions of the epochs in ascending order",
    ),
    (
        "deep",
        spoilt().replace('"seed": 0', '"seed": ' + "[" * 900 + "]" * 900),
        "seed [[[[[[[...]]]]]]]: has to be an int",
    ),
    (
        "huge",
        spoilt(train__epochs=10**4000),
        "train.epochs (an integer of 13288 bits): has to be an integer of at most",
    ),
    ("huge for a number", spoilt(train__decay=10**400), "train.decay (an integer of 1329 bits): has to be a finite"),
    ("huge text", spoilt(train__epochs="9" * 10**6), "has to be an integer"),
    ("infinite", spoilt(train__learning_rate=float("inf")), "train.learning_rate inf: has to be a finite number"),
]


@pytest.mark.parametrize(("content", "message"), [c[1:] for c in BAD_FILES], ids=[c[0] for c in BAD_FILES])
def test_bad_files_are_explained(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


DIGITS = json.loads(json.dumps(make_config("digits", "lwf", "random").to_dict()))
# What stands as config.json in the --out of a run, and what is said of it.
REFUSED = {
    "zero bytes": (b"", "is not valid JSON"),
    "cut": (json.dumps(DIGITS).encode()[:200], "is not valid JSON"),
    "no text": (b"\xff\xfe\xff", "is not valid JSON"),
    "very deep": (b"[" * 200_000, "is not valid JSON"),
    "a list": (b"[]", "holds list instead of an object"),
    "null": (b"null", "holds NoneType instead of an object"),
    "unknown key": (json.dumps({**DIGITS, "extra": 1}).encode(), "extra: 1 there, None asked for"),
    "wrong type": (
        json.dumps({**DIGITS, "train": {**DIGITS["train"], "epochs": "30"}}).encode(),
        "train.epochs: '30' there, 30 asked for",
    ),
    "a part that is text": (json.dumps({**DIGITS, "data": "x"}).encode(), "data: 'x' there"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_configs_that_are_refused(tmp_path, capsys, case):
    content, message = REFUSED[case]
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "digits", "--method", "lwf", "--exemplars", "random", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("mnemonics: ")
    assert str(tmp_path) in said
    assert message in said
    assert "Traceback" not in said
    assert (tmp_path / "config.json").read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"config.json"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_summary_is_named_by_the_report(tmp_path, capsys, content):
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        cli.main(["report", str(tmp_path)])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"mnemonics: {tmp_path / 'summary.json'} ")
