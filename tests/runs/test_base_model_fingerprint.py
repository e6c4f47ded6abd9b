"""What decides the bits of a base model: methods and settings that share one, and those that must not."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
from helpers import bits

from mnemonics_jax.methods import METHODS
from mnemonics_jax.methods.lwf import LwF
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runs.base_model_cache import BaseModelCache, fingerprint

SHORT = {"stream": {"phases": 1}, "train": {"epochs": 2}}


class Trained(Exception):
    """Θ_0 is trained."""


def theta_0(setup):
    """The variables at the end of phase 0's training, by the phase itself."""
    steps = setup.config.train.epochs * -(-len(setup.stream.train_indices(0)) // setup.config.train.batch_size)

    class Stopping(NoCallbacks):
        def checkpoint(self, point):
            if point.done == steps:
                raise Trained(point.loop_state.variables)

    with pytest.raises(Trained) as caught:
        run_phase(setup, initial_state(setup), Stopping())
    return caught.value.args[0]


def with_method(config, **changes):
    """The setup of `config` with settings of its method changed."""
    return make_setup(dataclasses.replace(config, method=dataclasses.replace(config.method, **changes)))


def training(setup):
    """What the fingerprint says of the method."""
    return fingerprint(setup)["training"]


def test_methods_of_one_name_train_the_same_first_model(tiny):
    setups = {name: tiny.setup(name, "random", **SHORT) for name in METHODS}
    models = {name: bits(theta_0(setup)) for name, setup in setups.items()}
    alike = ("lwf", "icarl", "bic", "finetune", "joint")
    assert {training(setups[name]) for name in alike} == {"cross-entropy"}
    assert all(models[name] == models["lwf"] for name in alike)
    assert training(setups["lucir"]) != "cross-entropy"
    assert models["lucir"] != models["lwf"]
    sigmoid = with_method(setups["icarl"].config, objective="sigmoid")
    assert training(sigmoid) != "cross-entropy"
    assert bits(theta_0(sigmoid)) != models["icarl"]


def test_settings_that_count_from_phase_1_on_leave_the_first_model_alone(tiny):
    one = tiny.setup("lucir", "random", **SHORT)
    other = tiny.config("lucir", "mnemonics", **{**SHORT, "stream": {"phases": 5}}, exemplars={"per_class": 2})
    other = with_method(other, lambda_base=10.0, margin=0.1, margin_weight=3.0)
    assert fingerprint(one) == fingerprint(other)
    assert bits(theta_0(one)) == bits(theta_0(other))


@dataclass(frozen=True)
class Otherwise(LwF):
    name: ClassVar[str] = "otherwise"

    def loss(self, inputs):
        return 2 * super().loss(inputs)


@dataclass(frozen=True)
class AsBefore(LwF):
    name: ClassVar[str] = "as_before"

    @property
    def base_loss(self):
        return super().base_loss


def test_a_method_that_changes_the_loss_of_another_does_not_pass_for_it(tiny, tmp_path):
    config = tiny.config("lwf", "random", **SHORT)

    def named(method):
        setup = make_setup(dataclasses.replace(config, method=method))
        return training(setup), BaseModelCache(tmp_path, setup, pytest.fail).name

    parent, child, other = named(LwF()), named(Otherwise()), named(Otherwise(temperature=3.0))
    assert all(one != two for one, two in zip(parent, child, strict=True))
    assert all(one != two for one, two in zip(child, other, strict=True))
    # One that says so does.
    assert named(AsBefore(temperature=3.0)) == parent


def test_classes_of_one_name_in_two_modules_are_two_methods(tiny):
    def setup(module):
        cls = dataclass(frozen=True)(type("Mine", (LwF,), {"name": "mine", "__module__": module}))
        return make_setup(dataclasses.replace(tiny.config("lwf", "random", **SHORT), method=cls()))

    assert training(setup("one")) != training(setup("two"))


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"epochs": 3}},
        {"train": {"learning_rate": 0.05}},
        {"train": {"batch_size": 32}},
        {"train": {"chunk_steps": 4}},
        {"data": {"crop_padding": 0}},
        {"data": {"num_classes": 8}, "stream": {"base": 3}},
        {"stream": {"base": 4, "phases": 1}},
        {"stream": {"order_seed": 7}},
        {"net": {"weight_transfer": True}},
        {"net": {"widths": (8, 4)}},
        {"net": {"precision": "bfloat16"}},
        {"exemplars": {"store": "float32"}},
        {"seed": 1},
        {"method": "lucir"},
    ],
    ids=str,
)
def test_what_changes_the_first_model_changes_its_name(tiny, tmp_path, changes):
    def name(method="icarl", **changed):
        setup = tiny.setup(method, "mnemonics", **changed)
        return BaseModelCache(tmp_path, setup, pytest.fail).name

    assert name(**changes) != name()


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"later_learning_rate": 0.01}},
        {"train": {"balanced_steps": 5, "balanced_learning_rate": 0.1}},
        {"data": {"workers": 2}},
        {"stream": {"phases": 1}},
        {"exemplars": {"per_class": 2, "unroll_length": 1, "inner_init": "current", "outer_steps": 2}},
        {"kind": "random"},
        {"method": "bic"},
    ],
    ids=str,
)
def test_what_does_not_leaves_it(tiny, tmp_path, changes):
    def name(method="icarl", kind="mnemonics", **changed):
        return BaseModelCache(tmp_path, tiny.setup(method, kind, **changed), pytest.fail).name

    assert name(**changes) == name()
