"""What a .npz file delivers, and what is said about files that cannot be used."""

import os

import numpy as np
import pytest

from mnemonics_jax.data import DataConfig, load
from mnemonics_jax.runtime.errors import UserError


def good_arrays():
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (9, 6, 5, 3)).astype(np.uint8),
        "train_labels": np.arange(9) % 3,
        "test_images": rng.integers(0, 256, (6, 6, 5, 3)).astype(np.uint8),
        "test_labels": np.arange(6)[::-1] % 3,
    }


def load_file(path, **settings):
    return load(DataConfig(source="npz", path=str(path), **settings))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_delivers_its_arrays(tmp_path, save):
    arrays = good_arrays()
    save(tmp_path / "toy.npz", **arrays)
    data = load_file(tmp_path / "toy.npz")
    assert (data.name, data.class_names) == ("toy", ("0", "1", "2"))
    for key, value in arrays.items():
        np.testing.assert_array_equal(getattr(data, key), value)


def test_npz_with_names_grey_images_and_a_selection(tmp_path):
    arrays = {k: v[..., 0] if "images" in k else v.astype(np.uint8) for k, v in good_arrays().items()}
    np.savez(tmp_path / "toy.npz", **arrays, class_names=np.array(["ant", "bee", "cat"]))
    data = load_file(tmp_path / "toy.npz", first_class=1)
    assert (data.class_names, data.image_shape) == (("bee", "cat"), (6, 5, 1))
    np.testing.assert_array_equal(data.train_images[..., 0], arrays["train_images"][arrays["train_labels"] > 0])
    np.testing.assert_array_equal(data.test_labels, [1, 0, 1, 0])


def with_value(key, value):
    return lambda arrays: arrays | {key: value}


class Trap:
    """An object that would leave a trace if it were ever unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


BAD_ARRAYS = [
    (
        "missing keys",
        lambda a: {"train_images": a["train_images"], "test_labels": a["test_labels"], "x": a["test_images"]},
        "lacks train_labels, test_images; it has test_labels, train_images, x",
    ),
    ("no arrays", lambda a: {}, "it has no arrays"),
    ("object images", with_value("train_images", np.array([Trap()] * 9, object)), "train_images is an object array"),
    ("object names", with_value("class_names", np.array(["a", "b", Trap()], object)), "class_names is an object array"),
    ("float images", with_value("train_images", np.zeros((9, 6, 5, 3))), "train_images is float64"),
    ("flat images", with_value("test_images", np.zeros((6, 90), np.uint8)), "test_images has shape [6, 90]"),
    ("no images", with_value("train_images", np.zeros((0, 6, 5, 3), np.uint8)), "train_images has shape [0, 6, 5, 3]"),
    ("channels first", with_value("train_images", np.zeros((9, 3, 6, 5), np.uint8)), "channels come last"),
    ("different sizes", with_value("test_images", np.zeros((6, 5, 5, 3), np.uint8)), "(6, 5, 3) and (5, 5, 3)"),
    ("float labels", with_value("train_labels", np.arange(9) % 3.0), "train_labels is float64"),
    ("one-hot labels", with_value("train_labels", np.eye(9, 3, dtype=int)), "train_labels has shape [9, 3]"),
    ("too few labels", with_value("test_labels", np.arange(5) % 3), "test_labels has 5 entries for 6 images"),
    ("labels from one", with_value("train_labels", np.arange(9) % 3 + 1), "train_labels has the value 3"),
    ("a gap", with_value("train_labels", np.arange(9) % 3 * 2), "train_labels has the value 4"),
    ("negative", with_value("test_labels", np.array([-1, 0, 1, 2, 0, 1])), "test_labels has the value -1"),
    ("class only in test", with_value("test_labels", np.arange(6) % 4), "test_labels has the value 3"),
    ("class only in train", with_value("test_labels", np.arange(6) % 2), "test_labels never has the value 2"),
    ("more names", with_value("class_names", np.array(list("abcd"))), "train_labels never has the value 3"),
    ("fewer names", with_value("class_names", np.array(list("ab"))), "train_labels has the value 2"),
    ("numbers as names", with_value("class_names", np.arange(3)), "class_names is int64"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in BAD_ARRAYS], ids=[case[0] for case in BAD_ARRAYS])
def test_bad_arrays_are_explained(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "toy.npz", allow_pickle=True, **change(good_arrays()))
    with pytest.raises(UserError) as caught:
        load_file(tmp_path / "toy.npz")
    assert message in str(caught.value)
    assert "toy.npz" in str(caught.value)
    assert not (tmp_path / "unpickled").exists()


def damaged(path):
    np.savez(path, **good_arrays())
    data = bytearray(path.read_bytes())
    middle = data.index(b"train_images.npy") + 400
    data[middle : middle + 50] = b"\0" * 50
    path.write_bytes(data)


def bare_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


BAD_FILES = [
    ("missing", lambda path: None, "does not exist"),
    ("a folder", lambda path: path.mkdir(), "is not a file"),
    ("empty", lambda path: path.write_bytes(b""), "is not an .npz file"),
    ("text", lambda path: path.write_text("hello"), "is not an .npz file"),
    ("npy", bare_array, "is not an .npz file"),
    ("truncated", lambda path: (damaged(path), path.write_bytes(path.read_bytes()[:-300])), "is not an .npz file"),
    ("flipped bytes", damaged, "train_images cannot be read"),
]


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES])
def test_bad_files_are_explained(tmp_path, make, message):
    make(tmp_path / "toy.npz")
    with pytest.raises(UserError) as caught:
        load_file(tmp_path / "toy.npz")
    assert message in str(caught.value)


@pytest.mark.parametrize("part", [slice(None, 0.5), slice(0.5, None), slice(0.1, None), slice(0.01, None)], ids=str)
def test_a_file_that_lacks_a_part_is_refused(tmp_path, part):
    path = tmp_path / "toy.npz"
    np.savez(path, **good_arrays())
    content = path.read_bytes()
    begin, end = (None if share is None else int(share * len(content)) for share in (part.start, part.stop))
    path.write_bytes(content[begin:end])
    with pytest.raises(UserError, match=r"toy\.npz"):
        load_file(path)


@pytest.mark.parametrize("path", ["s3://bucket/data.npz", "gs://bucket/data", "https://host/data.npz"])
@pytest.mark.parametrize("source", ["npz", "folder", "cifar100"])
def test_an_address_is_no_path(source, path):
    with pytest.raises(UserError, match=f"^--data.path {path} is an address"):
        load(DataConfig(source=source, path=path))
