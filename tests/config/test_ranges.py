"""Every number among the settings has a range: what lies outside is refused with its flag."""

import dataclasses
import math
from typing import get_args, get_origin

import pytest

from mnemonics_jax.cli.compare import CompareSettings
from mnemonics_jax.cli.run import RunSettings
from mnemonics_jax.cli.sweep import SweepSettings
from mnemonics_jax.config.config import Config
from mnemonics_jax.config.presets import make_config
from mnemonics_jax.exemplars import EXEMPLARS, ExemplarStrategy
from mnemonics_jax.methods import METHODS, Method
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.settings import check_ranges, field_kinds, options
from mnemonics_jax.sweeps.ray_config import RayConfig

BAD = {float: (math.nan, math.inf, -math.inf, -1.0), int: (-1, 2**70, True)}


def settings_of(kind):
    """A settings dataclass and those inside of it."""
    yield kind
    for field in field_kinds(kind).values():
        for option in options(field):
            if dataclasses.is_dataclass(option):
                yield from settings_of(option)


# Without the command line's own fields beside the settings, and the bases, which have no defaults of their own.
CLASSES = {
    cls: None
    for start in (RunSettings, CompareSettings, SweepSettings, RayConfig, *METHODS.values(), *EXEMPLARS.values())
    for cls in settings_of(start)
    if cls not in (RunSettings, CompareSettings, SweepSettings, Method, ExemplarStrategy)
}


def instance(cls):
    return make_config("digits") if cls is Config else cls()


def numbers():
    """Every bad value of every number among the settings: class, field, value, and what the message has to name."""
    for cls in CLASSES:
        for name, kind in field_kinds(cls).items():
            for option in options(kind):
                listed = get_origin(option) is tuple
                plain = options(get_args(option)[0])[0] if listed else option
                for bad in BAD.get(plain, ()):
                    yield pytest.param(cls, name, (bad,) if listed else bad, id=f"{cls.__name__}.{name}={bad}")


NUMBERS = list(numbers())


def test_the_walk_finds_the_settings():
    names = {cls.__name__ for cls in CLASSES}
    assert names >= {"Config", "TrainConfig", "DataConfig", "StreamConfig", "NetConfig", "SaveConfig", "Cluster"}
    assert names >= {"RayConfig", "LwF", "ICaRL", "BiC", "LUCIR", "Finetune", "Joint", "Random", "Herding", "Mnemonics"}
    found = {(case.values[0].__name__, case.values[1]) for case in NUMBERS}
    assert found >= {("TrainConfig", "milestones"), ("NetConfig", "widths"), ("SaveConfig", "min_seconds")}
    assert found >= {("Config", "seed"), ("StreamConfig", "order_seed"), ("BiC", "holdout"), ("Mnemonics", "truncate")}


@pytest.mark.parametrize(("cls", "name", "value"), NUMBERS)
def test_a_number_out_of_range_is_refused_with_its_flag(cls, name, value):
    with pytest.raises(UserError) as caught:
        check_ranges(dataclasses.replace(instance(cls), **{name: value}), "part.")
    message = str(caught.value)
    assert message.startswith("--")
    assert name.replace("_", "-") in message
    assert ": has to be " in message
    assert len(message) < 200


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_are_in_range(cls):
    check_ranges(instance(cls))


def test_settings_inside_of_settings_are_named_in_full():
    config = make_config("digits")
    for part, name, message in [
        ("train", "learning_rate", "--train.learning-rate nan: has to be a finite number"),
        ("exemplars", "inner_ridge", "--exemplars.inner-ridge nan: has to be a finite number"),
        ("method", "temperature", "--method.temperature nan: has to be a finite number"),
    ]:
        changed = dataclasses.replace(getattr(config, part), **{name: math.nan})
        with pytest.raises(UserError) as caught:
            dataclasses.replace(config, **{part: changed}).validate()
        assert str(caught.value) == message
