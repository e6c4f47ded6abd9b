"""What decides the bits of a first phase: methods and settings that share one, and those that must not."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
import pytest

from mnemonics_jax import phase as phases
from mnemonics_jax.first_phase import FirstPhase, origin
from mnemonics_jax.methods import METHODS
from mnemonics_jax.methods.lwf import LwF
from mnemonics_jax.state import initial_state, make_setup
from mnemonics_jax.watch import Silent

SHORT = {"stream": {"phases": 1}, "train": {"epochs": 2}}


class Trained(Exception):
    """Θ_0 is trained."""


def theta_0(setup):
    """The variables at the end of phase 0's training, by the phase itself."""
    steps = setup.config.train.epochs * -(-len(setup.stream.train_indices(0)) // setup.config.train.batch_size)

    def keep(point):
        if point.done == steps:
            raise Trained(point.work.variables)

    with pytest.raises(Trained) as caught:
        phases.run_phase(setup, initial_state(setup), Silent(), keep)
    return caught.value.args[0]


def with_method(config, **changes):
    """The setup of `config` with settings of its method changed."""
    return make_setup(dataclasses.replace(config, method=dataclasses.replace(config.method, **changes)))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_methods_of_one_name_train_the_same_first_model(tiny):
    setups = {name: tiny.setup(name, "random", **SHORT) for name in METHODS}
    models = {name: bits(theta_0(setup)) for name, setup in setups.items()}
    alike = ("lwf", "icarl", "bic", "finetune", "joint")
    assert {setups[name].config.method.first_phase for name in alike} == {"cross-entropy"}
    assert all(models[name] == models["lwf"] for name in alike)
    assert setups["lucir"].config.method.first_phase != "cross-entropy"
    assert models["lucir"] != models["lwf"]
    sigmoid = with_method(setups["icarl"].config, objective="sigmoid")
    assert sigmoid.config.method.first_phase != "cross-entropy"
    assert bits(theta_0(sigmoid)) != models["icarl"]


def test_settings_that_count_from_phase_1_on_leave_the_first_model_alone(tiny):
    one = tiny.setup("lucir", "random", **SHORT)
    other = tiny.config("lucir", "mnemonics", **{**SHORT, "stream": {"phases": 5}}, exemplars={"per_class": 2})
    other = with_method(other, lambda_base=10.0, margin=0.1, margin_weight=3.0)
    assert origin(one) == origin(other)
    assert bits(theta_0(one)) == bits(theta_0(other))


@dataclass(frozen=True)
class Otherwise(LwF):
    name: ClassVar[str] = "otherwise"

    def loss(self, inputs):
        return 2 * super().loss(inputs)


def test_a_method_that_changes_the_loss_of_another_does_not_pass_for_it():
    assert Otherwise().first_phase != LwF().first_phase
    assert Otherwise(temperature=3.0).first_phase != Otherwise().first_phase


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
        return FirstPhase(tmp_path, setup, pytest.fail).name

    assert name(**changes) != name()


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"later_learning_rate": 0.01}},
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
        return FirstPhase(tmp_path, tiny.setup(method, kind, **changed), pytest.fail).name

    assert name(**changes) == name()
