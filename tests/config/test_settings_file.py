"""--config: settings of a YAML or JSON file, and how flags change them."""

import dataclasses
import json

import pytest
import yaml

from mnemonics_jax import cli
from mnemonics_jax.config.parsing import override
from mnemonics_jax.config.presets import make_config
from mnemonics_jax.config.settings_file import read_settings_file
from mnemonics_jax.runtime.errors import UserError


class Planned(Exception):
    """Carries what a command would have run."""


@pytest.fixture
def planned(monkeypatch):
    """Gives the configuration that `run` makes of some words, or those of `compare` by arm."""

    def record(config, *_, **__):
        raise Planned(config)

    monkeypatch.setattr("mnemonics_jax.runs.runner.run_in_folder", record)
    monkeypatch.setattr("mnemonics_jax.sweeps.comparison.compare", record)
    monkeypatch.setattr("mnemonics_jax.runtime.compile_cache.use_persistent_cache", lambda: None)

    def plan(*words):
        with pytest.raises(Planned) as caught:
            cli.main([str(word) for word in words])
        return caught.value.args[0]

    return plan


def write(path, text):
    path.write_text(text)
    return path


def test_the_config_of_a_run_runs_what_was_run(planned, tmp_path):
    config = override(make_config("digits", "bic", "mnemonics", "paper"), {"train.epochs": "3", "seed": "4"})
    path = write(tmp_path / "config.json", json.dumps({**config.to_dict(), "record": {"configuration": "abc"}}))
    assert planned("run", "--config", path) == config
    again = write(tmp_path / "again.yaml", yaml.safe_dump(json.loads(json.dumps(config.to_dict()))))
    assert planned("run", "--config", again) == config


def test_a_file_of_some_settings_changes_those_of_the_preset(planned, tmp_path):
    text = "preset: digits\nmethod: lucir\nexemplars: {name: herding, per_class: 3}\ntrain.learning_rate: 1e-2\nseed: 2"
    path = write(tmp_path / "a.yaml", text)
    expected = override(
        make_config("digits", "lucir", "herding"),
        {"exemplars.per_class": "3", "train.learning_rate": "0.01", "seed": "2"},
    )
    assert planned("run", "--config", path) == expected


def test_flags_count_for_more_than_the_file(planned, tmp_path):
    path = write(tmp_path / "a.yml", "preset: images\nmethod: lucir\ntrain: {epochs: 7, decay: 0.5}\nrecipe: paper")
    config = planned("run", "digits", "--config", path, "--method", "lwf", "--train.epochs", "9", "--recipe", "default")
    assert config == override(make_config("digits", "lwf"), {"train.epochs": "9", "train.decay": "0.5"})


def test_the_config_of_a_run_serves_another_method_and_kind(planned, tmp_path):
    config = override(make_config("digits", "icarl", "mnemonics"), {"method.temperature": "3", "train.epochs": "4"})
    path = write(tmp_path / "config.json", json.dumps(config.to_dict()))
    found = planned("run", "--config", path, "--method", "lucir", "--exemplars", "random")
    assert found == override(make_config("digits", "lucir", "random"), {"train.epochs": "4"})
    assert planned("run", "--config", path, "--method", "lwf").method.temperature == 3


def test_a_comparison_takes_names_and_what_each_arm_has(planned, tmp_path):
    text = "method: [lwf, lucir]\nexemplars: [herding, mnemonics]\nmethod.lambda_base: 2\nexemplars.outer_steps: 5"
    arms = planned("compare", "digits", "--config", write(tmp_path / "a.yaml", text))
    assert set(arms) == {(method, kind) for method in ("lwf", "lucir") for kind in ("herding", "mnemonics")}
    for (method, kind), config in arms.items():
        own = make_config("digits", method, kind)
        if method == "lucir":
            own = dataclasses.replace(own, method=dataclasses.replace(own.method, lambda_base=2.0))
        if kind == "mnemonics":
            own = dataclasses.replace(own, exemplars=dataclasses.replace(own.exemplars, outer_steps=5))
        assert config == own


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "train: {epoch: 3}", "unknown setting 'train.epoch': did you mean 'train.epochs'"),
        ("a.yaml", "train: {epochs: many}", "train.epochs 'many': has to be an integer"),
        ("a.yaml", "train: {epochs: 2020-01-01}", "has to be an integer"),
        ("a.yaml", "train: 3", "unknown setting 'train'"),
        ("a.yaml", "method.lambda_base: 3", "unknown setting 'method.lambda_base'"),
        ("a.yaml", "method: [lwf, bic]", "a run takes one; `mnemonics compare` takes several"),
        ("a.yaml", "method: 3", "method 3: give a name"),
        ("a.yaml", "preset: [digits, images]", "give one name"),
        ("a.yaml", "- 1\n- 2", "has to be a mapping of settings"),
        ("a.yaml", "a: [", "is not valid YAML"),
        ("a.yaml", "!!python/object/apply:os.system ['touch pwned']", "is not valid YAML"),
        ("a.yaml", "method: lucir\nmethod.holdout: 0.1", "unknown setting 'method.holdout'"),
        ("a.yaml", "methd: lwf", "unknown setting 'methd': did you mean 'method'?\n"),
        ("a.yaml", "exemplars.unrol_length: 1", "did you mean 'exemplars.unroll_length'?\n"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", "{", "give --config another file"),
        ("a.toml", "", "give a file that ends in .yaml, .yml or .json"),
        ("a.yaml", None, "cannot be read: No such file"),
    ],
    ids=str,
)
def test_a_bad_file_is_refused_by_name(tmp_path, capsys, monkeypatch, name, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        write(tmp_path / name, text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "digits", "--config", name])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert message.startswith("a run takes") or name in said
    assert {path.name for path in tmp_path.iterdir()} <= {name}


def test_an_empty_file_is_told(tmp_path):
    with pytest.raises(UserError, match="has to be a mapping"):
        read_settings_file(write(tmp_path / "a.yaml", ""))
