"""A method and an exemplar kind from outside of the package, added by experiments/examples/custom_method.py."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXPERIMENTS, load_script

from mnemonics_jax.exemplars import EXEMPLARS, register_exemplars
from mnemonics_jax.methods import METHODS, Classes, LogitCorrection, LossInputs, method_class, register_method
from mnemonics_jax.nets.classifier import Outputs
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.settings import check_ranges

SCRIPT = EXPERIMENTS / "examples" / "custom_method.py"
TINY = (
    *("--net.widths", "8", "8", "--train.epochs", "2", "--train.batch-size", "64", "--train.milestones", "0.6"),
    *("--train.chunk-steps", "8", "--data.crop-padding", "1", "--phases", "1", "--exemplars.per-class", "4"),
    *("--exemplars.unroll-length", "3", "--exemplars.inner-init", "reset_head", "--exemplars.inner-scope", "all"),
    *("--train.later-epochs", "None"),
)


@pytest.fixture(scope="module")
def custom():
    """The script as a module; what it has added is taken away again."""
    yield load_script(SCRIPT)
    del METHODS["still"], EXEMPLARS["spread"]


def inputs(features, previous, old):
    logits = jnp.array([[2.0, 0.0, 5.0]])
    classes = Classes(jnp.array([old, False, False]), jnp.array([not old, True, False]))
    bias = LogitCorrection(np.ones(3, np.float32), np.zeros(3, np.float32))
    now, was = (Outputs(logits, logits, jnp.array([f])) for f in (features, previous))
    return LossInputs(now, was, jnp.array([0]), classes, bias)


def test_the_loss_is_what_its_docstring_says(custom):
    # −log softmax over the two classes seen; unit features at a right angle are √2 apart.
    entropy = np.log1p(np.exp(-2.0))
    method = method_class("still")(weight=3.0)
    assert method.loss(inputs([2.0, 0.0], [0.0, 5.0], True)) == pytest.approx(entropy + 3 * 2, rel=1e-6)
    assert method.loss(inputs([2.0, 0.0], [7.0, 0.0], True)) == pytest.approx(entropy, rel=1e-6)
    assert method.loss(inputs([2.0, 0.0], [0.0, 0.0], False)) == pytest.approx(entropy, rel=1e-6)
    with pytest.raises(UserError, match=r"--method\.weight -1\.0"):
        check_ranges(method_class("still")(weight=-1.0), "method.")


def test_spread_exemplars_lie_where_greed_puts_them(custom):
    line = np.array([[0.0], [1.0], [4.0], [5.0], [10.0]], np.float32)
    # The mean is 4; then 10 (6 away), then 0 (4 away), then 1 and 5 (1 away each, the first wins).
    assert custom.spread(line, 5).tolist() == [2, 4, 0, 1, 3]
    assert custom.spread(np.zeros((3, 2), np.float32), 3).tolist() == [0, 1, 2]


def test_the_command_line_runs_and_reports_them(custom, tmp_path):
    arms = ("--methods", "still", "--exemplars", "herding", "spread", "--seeds", "1", "--method.weight", "2.0")
    custom.cli.main(["compare", "digits", *arms, *TINY, "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "comparison.json").read_text())
    assert {(row["method"], row["exemplars"]) for row in rows} == {("still", "herding"), ("still", "spread")}
    assert all(row["average_accuracy_mean"] > 15 for row in rows)
    settings = json.loads((tmp_path / "still-spread-seed0" / "config.json").read_text())
    assert settings["method"] == {"name": "still", "weight": 2.0}
    custom.cli.main(["report", str(tmp_path)])
    assert "Left out" not in (tmp_path / "report.html").read_text()
    assert {path.name for path in (tmp_path / "figures").iterdir()} >= {"tsne-still.png", "exemplars-still.png"}


def test_the_script_is_the_command_with_its_own_names():
    words = [sys.executable, str(SCRIPT), "run", "digits", "--method", "still", "--exemplars", "spread", "--help"]
    child = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "--method.weight" in child.stdout
    assert "distance between a feature and its previous value" in " ".join(child.stdout.split())


def test_a_name_is_given_once(custom):
    with pytest.raises(UserError, match="there is a method 'still' already: give yours another name"):
        register_method(custom.Still)
    with pytest.raises(UserError, match="there is an exemplar kind 'herding' already"):
        register_exemplars(EXEMPLARS["herding"])
