"""Settings by dotted name: parsed by their types, refused with the way out."""

import dataclasses

import pytest

from mnemonics_jax.config.config import flatten
from mnemonics_jax.config.parsing import override, settable
from mnemonics_jax.config.presets import PRESETS, make_config
from mnemonics_jax.runtime.errors import UserError


@pytest.fixture
def config():
    return make_config("digits", "bic", "mnemonics")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("exemplars.unroll_length", "5", 5),
        ("exemplars.unroll-length", " 5 ", 5),
        ("exemplars.inner_init", "class_means", "class_means"),
        ("exemplars.total", "200", 200),
        ("exemplars.total", "none", None),
        ("exemplars.first_order", "true", True),
        ("exemplars.inner_augment", "off", False),
        ("exemplars.anchor", "1e-2", 0.01),
        ("train.milestones", "0.4,0.8", (0.4, 0.8)),
        ("train.milestones", "(0.4, 0.8)", (0.4, 0.8)),
        ("train.milestones", "", ()),
        ("net.widths", "8:16", (8, 16)),
        ("data.path", "a/b", "a/b"),
        ("data.stream", "none", None),
        ("data.stream", "yes", True),
        ("method.holdout", "0.25", 0.25),
        ("seed", "3", 3),
    ],
)
def test_a_text_is_parsed_by_the_settings_type(config, name, text, value):
    changed = override(config, {name: text})
    path = name.replace("-", "_")
    found = changed
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)
    before, after = flatten(dataclasses.asdict(config)), flatten(dataclasses.asdict(changed))
    assert {key for key in before if before[key] != after[key]} <= {path}


def test_several_settings_are_changed_at_once(config):
    changed = override(config, {"train.epochs": "3", "train.decay": "0.5", "exemplars.per_class": "2"})
    assert (changed.train.epochs, changed.train.decay, changed.exemplars.per_class) == (3, 0.5, 2)
    assert changed.train.batch_size == config.train.batch_size


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("exemplars.unrol_length", "5", "unknown setting 'exemplars.unrol_length': did you mean 'exemplars.unroll_le"),
        ("unroll_length", "5", "exemplars.unroll_length"),
        ("method.lambda_base", "5", "unknown setting 'method.lambda_base'"),
        ("preset", "digits", "unknown setting 'preset'"),
        ("exemplars.unroll_length", "five", "exemplars.unroll_length 'five': has to be an integer"),
        ("exemplars.unroll_length", "5.0", "has to be an integer"),
        ("exemplars.anchor", "nan", "exemplars.anchor nan: has to be a finite number"),
        ("exemplars.first_order", "1", "has to be true or false"),
        ("exemplars.inner_init", "heads", "one of ridge, class_means, current, reset_head"),
        ("exemplars.total", "many", "exemplars.total 'many': has to be an integer or none"),
        ("exemplars.total", "0", "exemplars.total 0: has to be at least 1"),
        ("method.holdout", "0.6", "method.holdout 0.6: has to be greater than 0 and at most 0.5"),
        ("net.widths", "", "net.widths []: has to be at least 1 long"),
        ("net.widths", "8,wide", "net.widths[1] 'wide': has to be an integer"),
    ],
)
def test_what_a_setting_does_not_take_is_refused(config, name, text, message):
    with pytest.raises(UserError) as caught:
        override(config, {name: text})
    assert message in str(caught.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_comes_back_from_its_text(preset):
    """Text made of each preset's values gives the same configuration, so no type is left out."""
    config = make_config(preset, "lucir", "mnemonics")
    plain = flatten(dataclasses.asdict(config))
    plain.pop("preset")
    plain.pop("recipe")
    assert set(plain) == set(settable(config))
    texts = {k: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for k, v in plain.items()}
    assert override(config, texts) == config
