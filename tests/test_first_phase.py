"""Θ_0 shared by runs that start the same: the same results to the bit, and only where they would be the same."""

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
import pytest

from mnemonics_jax import phase as phases
from mnemonics_jax import run as runs
from mnemonics_jax.checkpoint import Checkpoints, SaveConfig
from mnemonics_jax.console import Display
from mnemonics_jax.files import locked
from mnemonics_jax.first_phase import FirstPhase, origin
from mnemonics_jax.methods import METHODS
from mnemonics_jax.methods.lwf import LwF
from mnemonics_jax.run import run
from mnemonics_jax.state import initial_state, make_setup
from mnemonics_jax.watch import Silent

SHORT = {"stream": {"phases": 1}, "train": {"epochs": 2}}
OFTEN = SaveConfig(every_steps=8, every_outer_steps=3, min_seconds=0.0)


class Listening(Display):
    """Keeps what the user would read."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, message):
        self.said.append(message)


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


def final_state(config, out):
    setup = make_setup(config)
    with Checkpoints(out / "checkpoints") as checkpoints:
        return checkpoints.latest(setup, initial_state(setup), pytest.fail).point.state


def events(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def result(out):
    """Summary and metrics, without what belongs to processes and without the word that something was shared."""
    values = [json.loads((out / "summary.json").read_text()), *(e for e in events(out) if e["event"] != "first_phase")]
    timing = ("seconds", "compilations", "shared_first_phase")
    return [{k: v for k, v in value.items() if k not in timing} for value in values]


def kept(folder):
    return sorted(path.parent.name for path in folder.glob("*/model"))


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


@pytest.fixture(scope="module")
def shared(tiny, tmp_path_factory):
    """A run that has left its first phase: (folder of first phases, folder of the run)."""
    out = tmp_path_factory.mktemp("shared")
    run(tiny.config("lwf", "random", **SHORT), out / "giver", Display(), first_phases=out / "first-phases")
    return out / "first-phases", out / "giver"


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """A run of another method, exemplar kind and number of phases that shares nothing: its settings and folder."""
    config = tiny.config("icarl", "mnemonics", train={"epochs": 2})
    out = tmp_path_factory.mktemp("alone") / "run"
    run(config, out, Display())
    return config, out


@pytest.fixture
def training_of(monkeypatch):
    """The phases that were trained, step by step."""
    trained, train = [], phases.train

    def noting(program, config, *rest, begun=None, **named):
        if begun is None:
            trained.append(rest[-2])
        return train(program, config, *rest, begun=begun, **named)

    monkeypatch.setattr(phases, "train", noting)
    return trained


def test_a_run_from_a_shared_first_phase_equals_one_of_its_own(shared, alone, tmp_path, training_of):
    config, own = alone
    display = Listening()
    summary = run(config, tmp_path / "taker", display, first_phases=shared[0])
    assert training_of == [1, 2, 3, 4, 5]
    assert result(tmp_path / "taker") == result(own)
    assert bits(final_state(config, tmp_path / "taker")) == bits(final_state(config, own))
    (name,) = kept(shared[0])
    (event,) = [e for e in events(tmp_path / "taker") if e["event"] == "first_phase"]
    assert (event["phase"], event["shared"]) == (0, name)
    assert summary["shared_first_phase"] == {"shared": name, "seconds": event["seconds"]}
    assert event["seconds"] > 0
    assert f"phase 0 is trained already, by a run that starts the same ({name})" in display.said
    assert json.loads((own / "summary.json").read_text())["shared_first_phase"] is None


def test_the_giver_tells_of_no_sharing(shared):
    assert json.loads((shared[1] / "summary.json").read_text())["shared_first_phase"] is None
    assert not [e for e in events(shared[1]) if e["event"] == "first_phase"]
    (model,) = shared[0].glob("*/model")
    assert sorted(path.name for path in model.iterdir()) == ["arrays", "manifest.json", "metrics.jsonl"]


def test_a_runs_own_checkpoint_goes_before_a_shared_first_phase(shared, alone, tmp_path, training_of):
    """A run stopped inside phase 0 goes on from there, though another has finished the phase since."""
    config, own = alone

    class Interrupting(Display):
        def advance(self, done, **values):
            if done == 16:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", Interrupting(), OFTEN)
    display = Listening()
    run(config, tmp_path / "run", display, OFTEN, first_phases=shared[0])
    assert any("going on from phase 0, training, step 8" in line for line in display.said)
    assert not [e for e in events(tmp_path / "run") if e["event"] == "first_phase"]
    assert result(tmp_path / "run") == result(own)


def test_a_run_interrupted_after_taking_ends_the_same(shared, alone, tmp_path):
    config, own = alone

    class Interrupting(Display):
        def stage(self, phase, name, total):
            if (phase, name) == (1, "exemplars"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", Interrupting(), OFTEN, first_phases=shared[0])
    summary = run(config, tmp_path / "run", Display(), OFTEN, first_phases=shared[0])
    assert summary["shared_first_phase"]["shared"] == kept(shared[0])[0]
    assert result(tmp_path / "run") == result(own)


def flip(model):
    path = max((p for p in model.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.name


def cut_manifest(model):
    os.truncate(model / "manifest.json", 100)
    return "manifest.json"


@pytest.mark.parametrize("damage", [flip, cut_manifest])
def test_a_damaged_first_phase_is_named_and_trained_anew(tiny, shared, tmp_path, training_of, damage):
    folder, config = tmp_path / "first-phases", tiny.config("bic", "herding", **SHORT)
    shutil.copytree(shared[0], folder)
    (model,) = folder.glob("*/model")
    name, display = damage(model), Listening()
    assert run(config, tmp_path / "one", display, first_phases=folder)["shared_first_phase"] is None
    (warning,) = [line for line in display.said if "damaged first phase" in line]
    assert name in warning
    assert warning.endswith("it is trained anew")
    # The next run finds a good one.
    other = tiny.config("bic", "random", **SHORT)
    assert run(other, tmp_path / "two", Display(), first_phases=folder)["shared_first_phase"] is not None
    assert training_of == [0, 1, 1]


def test_a_first_phase_that_another_process_writes_is_left_to_it(tiny, shared, tmp_path):
    folder, config = tmp_path / "first-phases", tiny.config("bic", "random", **SHORT)
    name = kept(shared[0])[0]
    with locked(folder / name):
        (folder / name / "model.part").mkdir()
        run(config, tmp_path / "run", Display(), first_phases=folder)
        assert sorted(path.name for path in (folder / name).iterdir()) == ["lock", "model.part"]
    # A draft that a crash has left is no hindrance.
    run(dataclasses.replace(config, method=LwF()), tmp_path / "next", Display(), first_phases=folder)
    assert sorted(path.name for path in (folder / name).iterdir()) == ["lock", "model"]


def test_without_room_for_a_first_phase_the_run_goes_on(tiny, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mnemonics_jax.first_phase.seal", full)
    display = Listening()
    run(tiny.config("bic", "random", **SHORT), tmp_path / "run", display, first_phases=tmp_path / "first-phases")
    assert any("could not be kept" in line and "No space left" in line for line in display.said)
    assert not kept(tmp_path / "first-phases")


def test_several_processes_share_no_first_phase(tiny, shared, tmp_path, monkeypatch):
    """Each would have to find the same one."""
    monkeypatch.setattr(runs.jax, "process_count", lambda: 2)
    monkeypatch.setattr(runs, "agree", lambda *_: None)
    monkeypatch.setattr(runs, "first_tells", lambda text: text)
    config = tiny.config("bic", "random", **SHORT)
    assert run(config, tmp_path / "run", Display(), first_phases=shared[0])["shared_first_phase"] is None
