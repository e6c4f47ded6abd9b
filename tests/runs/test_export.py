"""What `mnemonics export` writes, and that it comes back as the same bytes."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers import newer_format, rewrite_manifest
from PIL import Image

from mnemonics_jax import cli
from mnemonics_jax.data import DataConfig, load
from mnemonics_jax.phase.evaluation import embed
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runs.checkpoint import CheckpointFolder
from mnemonics_jax.runs.export import export, folder_name
from mnemonics_jax.runs.model import load_model
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.folders import FORMAT
from mnemonics_jax.runtime.progress import Display

QUICK = {"epochs": 1, "batch_size": 8}


def write_npz(path, channels=3, names=("ant", "b/../e", ".cat", "dög")):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 10)
    images = {f"{split}_images": rng.integers(0, 256, (40, 8, 8, channels), np.uint8) for split in ("train", "test")}
    np.savez(path, **images, train_labels=labels, test_labels=labels, class_names=np.array(names))


def last_state(config, out):
    setup = make_setup(config)
    with CheckpointFolder(out / "checkpoints") as checkpoints:
        return setup, checkpoints.latest(setup, initial_state(setup), pytest.fail).resume_point.state


@pytest.fixture(scope="module")
def colour(tiny, tmp_path_factory):
    """A run on coloured images whose class names are no fit names for folders, and its export."""
    folder = tmp_path_factory.mktemp("colour")
    write_npz(folder / "data.npz")
    config = tiny.config(
        "bic",
        "mnemonics",
        data={"source": "npz", "path": str(folder / "data.npz")},
        stream={"phases": 2},
        train={"epochs": 1, "batch_size": 8},
        exemplars={"outer_steps": 2, "outer_chunk": 2},
    )
    run_in_folder(config, folder / "run", Display())
    cli.main(["export", str(folder / "run")])
    return config, folder / "run"


def test_exemplars_come_back_from_both_forms_as_the_same_bytes(colour):
    config, out = colour
    setup, state = last_state(config, out)
    by_name = {
        setup.stream.dataset.class_names[label]: state.memory.images[position, : state.memory.counts[position]]
        for position, label in enumerate(setup.stream.order)
    }
    real = {image.tobytes() for image in setup.stream.dataset.train_images}
    assert any(image.tobytes() not in real for images in by_name.values() for image in images), "they were learned"
    npz = load(DataConfig(source="npz", path=str(out / "export" / "exemplars.npz")))
    folder = load(DataConfig(source="folder", path=str(out / "export" / "images")))
    assert npz.class_names == setup.stream.dataset.class_names
    assert set(folder.class_names) == {folder_name(name) for name in npz.class_names}
    for name, images in by_name.items():
        for data, label in ((npz, npz.class_names.index(name)), (folder, folder.class_names.index(folder_name(name)))):
            np.testing.assert_array_equal(data.train_images[data.train_labels == label], images)
    np.testing.assert_array_equal(npz.test_images, setup.stream.dataset.test_images)
    np.testing.assert_array_equal(npz.test_labels, setup.stream.dataset.test_labels)


def test_names_lead_nowhere_else(colour):
    out = colour[1]
    folders = sorted(path.name for path in (out / "export" / "images" / "train").iterdir())
    assert folders == ["%2Ecat", "ant", "b%2F..%2Fe", "dög"]
    assert {path.name for path in (out / "export").iterdir()} == {"exemplars.npz", "images", "model"}
    names = ["..", "%2E.", ".", "", "%", "a/b", "a%2Fb", "a\\b", "a\0b", "C:x", "日本"]
    encoded = [folder_name(name) for name in names]
    assert len(set(encoded)) == len(names)
    assert all(name and not name.startswith(".") and not set(name) & set('/\\\0:*?"<>|') for name in encoded)


def test_every_class_has_a_folder_of_its_own_whatever_its_name(tiny, tmp_path):
    names = ("twin", "twin", "x" * 300 + "a", "x" * 300 + "b")
    write_npz(tmp_path / "data.npz", names=names)
    config = tiny.config(
        "icarl", "random", data={"source": "npz", "path": str(tmp_path / "data.npz")}, stream={"phases": 1}, train=QUICK
    )
    run_in_folder(config, tmp_path / "run", Display())
    export(tmp_path / "run", tmp_path / "to", pytest.fail)
    folders = sorted(path.name for path in (tmp_path / "to" / "images" / "train").iterdir())
    assert folders == ["twin", "twin%1", "x" * 200, "x" * 200 + "%3"]
    assert load(DataConfig(source="folder", path=str(tmp_path / "to" / "images"))).num_classes == 4


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb", "\U0001f600" * 100])
def test_any_text_becomes_a_name_that_a_file_system_takes(tmp_path, name):
    (tmp_path / folder_name(name)).mkdir()


def test_the_model_comes_back(colour):
    config, out = colour
    setup, state = last_state(config, out)
    model = load_model(out / "export" / "model")
    jax.tree.map(np.testing.assert_array_equal, model.variables, state.variables)
    index = np.arange(40)
    logits = embed(setup.net, setup.augmentation, state.variables, setup.test_store, index).logits
    assert not (state.correction.scale == 1).all(), "the correction says something"
    expected = logits * state.correction.scale + state.correction.shift
    # Batches of another size may round otherwise.
    np.testing.assert_allclose(model(setup.stream.dataset.test_images).logits, expected, rtol=1e-4, atol=1e-5)
    assert model.class_names == tuple(setup.stream.dataset.class_names[label] for label in setup.stream.order)


def test_a_model_that_cannot_be_read_is_named(colour, tmp_path):
    shutil.copytree(colour[1] / "export" / "model", tmp_path / "model")
    content = max((path for path in (tmp_path / "model").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    content.write_bytes(content.read_bytes() + b"1")
    with pytest.raises(UserError, match=f"{content} has .*: export the run again"):
        load_model(tmp_path / "model")
    with pytest.raises(UserError, match=r"manifest\.json cannot be read .*: export the run again"):
        load_model(tmp_path / "nothing")
    rewrite_manifest(tmp_path / "model", newer_format)
    with pytest.raises(UserError, match=f"model was written in format {FORMAT + 1} by a newer version"):
        load_model(tmp_path / "model")


def test_an_export_that_fails_leaves_nothing(colour, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mnemonics_jax.runs.model.save_arrays", full)
    with pytest.raises(UserError, match=f"{tmp_path / 'out'} cannot be written: No space left on device"):
        export(colour[1], tmp_path / "out", pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_exports_its_last_phase(tiny, tmp_path, interrupt):
    config = tiny.config("icarl", "mnemonics", train={"epochs": 1}, exemplars={"store": "float32", "outer_steps": 2})
    interrupt(config, tmp_path / "run", phase=2)
    export(tmp_path / "run", tmp_path / "out", pytest.fail)
    setup, state = last_state(config, tmp_path / "run")
    positions = [p for label in range(10) for p in np.flatnonzero(setup.stream.order == label) if p < 6]
    kept = np.concatenate([state.memory.images[p] for p in positions])
    with np.load(tmp_path / "out" / "exemplars.npz") as arrays:
        np.testing.assert_array_equal(arrays["train_images_float32"], kept)
        np.testing.assert_array_equal(arrays["train_images"], np.rint(kept * 255))
        assert arrays["train_labels"].tolist() == np.repeat(np.arange(6), 4).tolist()
        assert arrays["class_names"].tolist() == [str(setup.stream.order[p]) for p in positions]
        assert arrays["class_names"][arrays["test_labels"]].tolist() == [
            str(label) for label in setup.stream.dataset.test_labels if str(label) in arrays["class_names"]
        ]
    first = tmp_path / "out" / "images" / "train" / str(setup.stream.order[positions[0]]) / "00000.png"
    with Image.open(first) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), np.rint(kept[0, :, :, 0] * 255))


def test_a_run_without_memory_exports_its_model_alone(tiny, tmp_path):
    run_in_folder(tiny.config("finetune", stream={"phases": 1}, train={"epochs": 1}), tmp_path / "run", Display())
    export(tmp_path / "run", tmp_path / "out", pytest.fail)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


def test_other_channels_are_left_to_npz(tiny, tmp_path):
    write_npz(tmp_path / "data.npz", channels=2)
    config = tiny.config(
        "lwf",
        "random",
        data={"source": "npz", "path": str(tmp_path / "data.npz")},
        stream={"phases": 1},
        train={"epochs": 1, "batch_size": 8},
    )
    run_in_folder(config, tmp_path / "run", Display())
    warnings = []
    export(tmp_path / "run", tmp_path / "out", warnings.append)
    assert warnings == ["images of 2 channels do not fit into PNG: only exemplars.npz has them"]
    assert not (tmp_path / "out" / "images").exists()


def test_refusals(colour, tmp_path):
    config, out = colour
    with pytest.raises(UserError, match="exists already: name another folder with --to"):
        export(out, out / "export", pytest.fail)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        export(tmp_path / "nothing", tmp_path / "out", pytest.fail)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(UserError, match=r"no phase of .* is finished yet"):
        export(tmp_path / "begun", tmp_path / "out", pytest.fail)
    assert not (tmp_path / "out").exists()
