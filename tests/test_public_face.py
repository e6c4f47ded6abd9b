"""What `import mnemonics_jax as mn` offers."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

import mnemonics_jax as mn
from mnemonics_jax import data

LISTED = "make_config override make_setup initial_state run_phase PhaseState Callbacks register_method"
LISTED += " register_exemplars load_model bilevel run Result"


def python_blocks():
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_every_name_is_there_and_told():
    assert set(LISTED.split()) <= set(mn.__all__) <= set(dir(mn))
    for name in mn.__all__:
        assert getattr(mn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mn.nonsense  # noqa: B018


def test_nothing_heavy_is_loaded_before_it_is_used():
    program = "import sys, mnemonics_jax; print([m for m in ('jax', 'flax', 'numpy', 'tyro') if m in sys.modules])"
    child = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert child.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def result(tiny):
    return mn.run(tiny.config("icarl", "mnemonics", train={"epochs": 2}, stream={"phases": 1}))


def test_a_run_in_memory_writes_nothing_and_equals_one_in_a_folder(tiny, result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny.config("icarl", "mnemonics", train={"epochs": 2}, stream={"phases": 1})
    again = mn.run(config)
    assert not list(tmp_path.iterdir())
    kept = mn.run(config, out="kept")
    summary = json.loads((tmp_path / "kept" / "summary.json").read_text())
    for one in (result, again, kept):
        assert one.accuracy == summary["accuracy"]
        assert one.average_accuracy == summary["average_accuracy"]
        assert one.forgetting == summary["forgetting"]
        assert one.average_forgetting == summary["average_forgetting"]
        assert one.backward_transfer == summary["backward_transfer"]
        assert one.accuracy_exemplar_model == summary["accuracy_exemplar_model"]
        matrix = [[None if np.isnan(v) else v for v in row] for row in one.accuracy_matrix]
        assert matrix == summary["accuracy_matrix"]
        np.testing.assert_array_equal(one.exemplars.images, result.exemplars.images)


def test_a_run_in_a_folder_loads_its_data_once(tiny, tmp_path, monkeypatch):
    loaded, load = [], data.load
    monkeypatch.setattr(data, "load", lambda config: loaded.append(config) or load(config))
    mn.run(tiny.config("finetune", "random", train={"epochs": 1}, stream={"phases": 1}), out=tmp_path / "run")
    assert len(loaded) == 1


def test_exemplars_come_with_the_labels_of_the_data_set(result):
    images, labels = result.exemplars
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [4] * 10
    # Class position p of the memory is the data set's class order[p].
    for position, label in enumerate(result.setup.stream.order):
        np.testing.assert_array_equal(images[labels == label], result.state.memory.images[position])


@pytest.mark.parametrize("method", ["bic", "lucir"])
def test_the_model_is_the_one_that_was_judged(tiny, method):
    result = mn.run(tiny.config(method, "random", train={"epochs": 2}, stream={"phases": 1}))
    stream = result.setup.stream
    outputs = result.model(stream.dataset.test_images)
    assert outputs.logits.shape == (len(stream.test_labels), 10)
    guesses = [result.model.class_names[i] for i in np.asarray(outputs.logits).argmax(axis=1)]
    names = [stream.dataset.class_names[label] for label in stream.dataset.test_labels]
    assert 100 * np.mean(np.array(guesses) == names) == pytest.approx(result.accuracy[-1])


def test_the_table_has_a_row_for_each_phase(result):
    table = result.to_pandas()
    assert table.index.tolist() == [0, 1]
    assert table.seen_classes.tolist() == [5, 10]
    assert table.accuracy.tolist() == result.accuracy
    np.testing.assert_array_equal(table[["group_0", "group_1"]], result.accuracy_matrix)


def test_a_method_without_memory_has_no_exemplars(tiny):
    result = mn.run(tiny.config("finetune", "random", train={"epochs": 1}, stream={"phases": 1}))
    assert result.accuracy_exemplar_model is None
    assert len(result.exemplars.images) == 0
    assert "accuracy_exemplar_model" not in result.to_pandas()


def test_the_readme_s_library_examples_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for block in python_blocks():
        exec(block, space)
    told = capsys.readouterr().out
    accuracies = re.findall(r"phase \d+: (\d+\.\d+) %", told)
    assert [float(value) for value in accuracies] == pytest.approx(space["result"].accuracy, abs=0.006)
    assert float(accuracies[-1]) > 50
