"""What each data source delivers, and what it says about data it cannot use."""

import os
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mnemonics_jax.data import DataConfig, load
from mnemonics_jax.data.dataset import make_dataset, take_classes
from mnemonics_jax.errors import UserError


def photo(seed, size=(8, 8)):
    """A smooth RGB image, which JPEG keeps nearly as it is."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (2, 2, 3), np.uint8)).resize(size, Image.Resampling.BILINEAR)


def make_folder(root, classes=("ant", "bee", "cat"), train=3, test=2, suffix="png"):
    for s, (split, count) in enumerate((("train", train), ("test", test))):
        for c, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                photo(100 * s + 10 * c + i).save(folder / f"{i}.{suffix}", quality=95, subsampling=0)
    return root


def load_folder(root, **settings):
    return load(DataConfig(source="folder", path=str(root), **settings))


def first_pixels(root, image_or_bytes, name="0.png", **settings):
    """The decoded form of one file that stands where the first training image stood."""
    target = root / "train" / "ant" / name
    (root / "train" / "ant" / "0.png").unlink()
    target.write_bytes(image_or_bytes) if isinstance(image_or_bytes, bytes) else image_or_bytes.save(target)
    return load_folder(root, **settings).train_images[0]


# Digits


def test_digits_are_the_bundled_images_split_four_to_one_in_every_class():
    data = load(DataConfig())
    bundled = load_digits()
    assert data.image_shape == (8, 8, 1)
    assert data.class_names == tuple("0123456789")

    def pairs(images, labels):
        return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))

    both = np.concatenate([data.train_images, data.test_images])
    assert (both.dtype, both.min(), both.max()) == (np.uint8, 0, 255)
    recovered = np.rint(both[..., 0] / 255 * 16).astype(np.uint8)
    labels = np.concatenate([data.train_labels, data.test_labels])
    assert pairs(recovered, labels) == pairs(bundled.images.astype(np.uint8), bundled.target)
    share = np.bincount(data.test_labels) / np.bincount(bundled.target)
    np.testing.assert_allclose(share, 0.2, atol=0.003)


def test_digits_are_split_the_same_way_every_time():
    first, second = load(DataConfig()), load(DataConfig())
    np.testing.assert_array_equal(first.train_images, second.train_images)
    np.testing.assert_array_equal(first.test_images, second.test_images)


def test_digits_restricted_to_some_classes():
    whole, part = load(DataConfig()), load(DataConfig(first_class=3, num_classes=4))
    assert part.class_names == ("3", "4", "5", "6")
    np.testing.assert_array_equal(
        part.train_images[part.train_labels == 1], whole.train_images[whole.train_labels == 4]
    )
    np.testing.assert_array_equal(part.train_counts(), whole.train_counts()[3:7])


# The data set itself


def test_statistics_are_those_of_the_training_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 50, 40, 3)).astype(np.uint8)
    images[..., 1] //= 3
    images[..., 2] = 7
    labels = np.arange(600, dtype=np.int32) % 2
    data = make_dataset("noise", (images, labels), (images[:2], labels[:2]), ("a", "b"))
    flat = images.reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, flat.mean(0), rtol=1e-10)
    np.testing.assert_allclose(data.std, [*flat.std(0)[:2], 1e-3], rtol=1e-10)


def test_a_class_without_test_images_is_refused():
    images, labels = np.zeros((4, 4, 4, 1), np.uint8), np.array([0, 1, 2, 2], np.int32)
    with pytest.raises(UserError, match="no test images for class dog"):
        make_dataset("pets", (images, labels), (images[:3], labels[:3] % 2), ("cat", "cow", "dog"))


@pytest.mark.parametrize(
    ("first", "count"), [(0, 11), (8, 3), (9, None), (10, None), (15, None), (-1, 3), (0, 1), (0, -2)]
)
def test_classes_that_do_not_exist_are_refused(first, count):
    data = load(DataConfig())
    with pytest.raises(UserError, match="digits has 10 classes"):
        take_classes(data, first, count)


# Image folders


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "Png"])
def test_folder_is_read_in_sorted_order(tmp_path, suffix):
    data = load_folder(make_folder(tmp_path / "pets", suffix=suffix))
    assert data.name == "pets"
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = [np.asarray(photo(10 * c + i)) for c in range(3) for i in range(3)]
    tolerance = 0 if suffix.lower() == "png" else 16
    assert np.abs(data.train_images.astype(int) - expected).max() <= tolerance
    assert np.abs(data.test_images[5].astype(int) - np.asarray(photo(121))).max() <= tolerance


def test_other_and_hidden_files_are_ignored(tmp_path):
    root = make_folder(tmp_path)
    for name in ("notes.txt", "train/list.csv", "train/ant/.hidden.png", "train/ant/._0.jpg", "train/ant/index.html"):
        (root / name).write_text("not an image")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "ant" / "more.png").mkdir()
    assert len(load_folder(root).train_images) == 9


def test_only_the_selected_classes_are_decoded(tmp_path):
    root = make_folder(tmp_path, classes=("ant", "bee", "cat", "dog"))
    (root / "train" / "ant" / "0.png").write_bytes(b"")
    (root / "test" / "dog" / "0.png").write_bytes(b"")
    part = load_folder(root, first_class=1, num_classes=2)
    assert part.class_names == ("bee", "cat")
    assert part.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(part.train_images[3], np.asarray(photo(20)))


def test_many_images_come_back_in_order(tmp_path):
    """More images than one decoding task holds."""
    for split in ("train", "test"):
        for c, name in enumerate("ab"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(90):
                Image.new("RGB", (4, 4), (i, c, 0)).save(tmp_path / split / name / f"{i:03}.png")
    data = load_folder(tmp_path)
    for images in (data.train_images, data.test_images):
        np.testing.assert_array_equal(images[:, 3, 3, 0], [*range(90), *range(90)])
        np.testing.assert_array_equal(images[:, 0, 0, 1], [0] * 90 + [1] * 90)


def test_links_inside_the_folder_are_followed(tmp_path):
    root = make_folder(tmp_path)
    (root / "train" / "ant" / "again.png").symlink_to(root / "train" / "ant" / "0.png")
    data = load_folder(root)
    np.testing.assert_array_equal(data.train_images[3], data.train_images[0])


def palette(colour):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, *colour])
    return image


@pytest.mark.parametrize(
    ("image", "name", "colour"),
    [
        (Image.new("L", (8, 8), 77), "0.png", (77, 77, 77)),
        (Image.new("1", (8, 8), 1), "0.png", (255, 255, 255)),
        (palette((10, 200, 30)), "0.png", (10, 200, 30)),
        (Image.new("RGBA", (8, 8), (200, 100, 50, 255)), "0.png", (200, 100, 50)),
        (Image.new("RGBA", (8, 8), (200, 100, 50, 0)), "0.png", (0, 0, 0)),
        (Image.new("RGBA", (8, 8), (200, 100, 50, 51)), "0.png", (40, 20, 10)),
        (Image.new("LA", (8, 8), (100, 51)), "0.png", (20, 20, 20)),
        (Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "0.jpg", (0, 255, 255)),
        (Image.fromarray(np.full((8, 8), 257 * 90, np.uint16)), "0.png", (90, 90, 90)),
        (Image.fromarray(np.full((8, 8), 65535, np.uint16)), "0.png", (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 128, np.uint16)), "0.png", (0, 0, 0)),
    ],
)
def test_every_colour_mode_becomes_rgb(tmp_path, image, name, colour):
    decoded = first_pixels(make_folder(tmp_path), image, name)
    # JPEG and the blending of alpha round.
    np.testing.assert_allclose(
        decoded.astype(int), np.broadcast_to(colour, (8, 8, 3)), atol=2 if name == "0.jpg" else 1
    )


def test_palette_transparency_becomes_black(tmp_path):
    root = make_folder(tmp_path)
    palette((10, 200, 30)).save(tmp_path / "p.png", transparency=b"\xff\x00")
    assert first_pixels(root, (tmp_path / "p.png").read_bytes()).max() == 0


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_the_first_frame_of_an_animation_is_used(tmp_path, kind):
    root = make_folder(tmp_path)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "film", format=kind, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(first_pixels(root, (tmp_path / "film").read_bytes())[4, 4], (255, 0, 0))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, upright):
    root = make_folder(tmp_path)
    stored = photo(5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    decoded = first_pixels(root, (tmp_path / "turned.png").read_bytes())
    np.testing.assert_array_equal(decoded, upright(np.asarray(stored)))


def test_resizing_averages_and_keeps_the_centre(tmp_path):
    """A 96x32 strip of black, grey stripes and white, at side 8, is its middle third with the stripes averaged."""
    strip = np.zeros((32, 96, 3), np.uint8)
    strip[:, 32:64:2] = 200
    strip[:, 64:] = 255
    middle = first_pixels(make_folder(tmp_path), Image.fromarray(strip), image_size=8)
    assert middle.shape == (8, 8, 3)
    # Without antialiasing the stripes would alias to 0 or 200; the outer columns see no part of the sides.
    np.testing.assert_allclose(middle.astype(float), 100, atol=15)


@pytest.mark.parametrize("size", [(20, 50), (50, 20), (5, 9)])
def test_images_of_many_sizes_are_brought_to_one(tmp_path, size):
    assert first_pixels(make_folder(tmp_path), photo(1, size), image_size=12).shape == (12, 12, 3)


# Bad folders: a name, what is done to a good folder, and what the message has to say.


def write(name, content):
    def spoil(root):
        path = root / name
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return spoil


def huge_png(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def remove(*names):
    def spoil(root):
        for name in names:
            path = root / name
            if path.is_dir():
                for inner in sorted(path.rglob("*"), reverse=True):
                    inner.rmdir() if inner.is_dir() else inner.unlink()
                path.rmdir()
            else:
                path.unlink()

    return spoil


def empty_class(root):
    for split in ("train", "test"):
        (root / split / "dog").mkdir()
    photo(0).save(root / "train" / "dog" / "0.png")


def link_out(name, to):
    def spoil(root):
        outside = root.parent / "outside"
        outside.mkdir()
        photo(0).save(outside / "0.png")
        remove(name)(root)
        (root / name).symlink_to(outside / to)

    return spoil


def dangling(root):
    (root / "train" / "ant" / "9.png").symlink_to(root / "train" / "ant" / "gone.png")


def odd_sizes(root):
    for name in ("train/bee/1.png", "test/cat/0.png"):
        photo(0, (8, 9)).save(root / name)


def as_tiff(root):
    photo(0).save(root / "train" / "bee" / "1.png", format="TIFF")


BAD_FOLDERS = [
    ("no such folder", lambda root: root.rename(root.parent / "moved"), "pets does not exist"),
    ("no train", remove("train"), "no folder train/"),
    ("no test", remove("test"), "no folder test/"),
    ("test is a file", lambda root: (remove("test")(root), (root / "test").write_text("")), "no folder test/"),
    ("no class", remove(*(f"{s}/{c}" for s in ("train", "test") for c in ("ant", "bee", "cat"))), "no class folders"),
    ("class in train only", lambda root: (root / "train" / "dog").mkdir(), "class dog is only in train/"),
    ("class in test only", lambda root: (root / "test" / "dog").mkdir(), "class dog is only in test/"),
    ("class without images", empty_class, os.path.join("test", "dog") + " has no images"),
    ("zero bytes", write("train/bee/1.png", b""), os.path.join("bee", "1.png") + " is not an image"),
    ("text", write("train/bee/1.png", b"hello"), os.path.join("bee", "1.png") + " is not an image"),
    ("format not read", as_tiff, os.path.join("bee", "1.png") + " is not an image"),
    (
        "truncated",
        write("test/bee/1.png", lambda data: data[:-40]),
        os.path.join("bee", "1.png") + " cannot be decoded",
    ),
    (
        "corrupt",
        write("test/bee/1.png", lambda data: data[:50] + b"\xff" * 30 + data[80:]),
        os.path.join("bee", "1.png") + " cannot be decoded",
    ),
    ("bomb", write("train/bee/1.png", huge_png(50_000, 50_000)), os.path.join("bee", "1.png") + " claims more pixels"),
    (
        "small bomb",
        write("train/bee/1.png", huge_png(10_000, 10_000)),
        os.path.join("bee", "1.png") + " claims more pixels",
    ),
    (
        "image link out",
        link_out("train/ant/0.png", "0.png"),
        os.path.join("ant", "0.png") + " is a symbolic link out of",
    ),
    ("class link out", link_out("train/ant", "."), os.path.join("train", "ant") + " is a symbolic link out of"),
    ("split link out", link_out("train", "."), "train is a symbolic link out of"),
    ("dangling link", dangling, "9.png is a symbolic link to"),
    ("odd size", odd_sizes, os.path.join("bee", "1.png") + " has 8x9 pixels"),
]


@pytest.mark.parametrize(
    ("spoil", "message"), [case[1:] for case in BAD_FOLDERS], ids=[case[0] for case in BAD_FOLDERS]
)
def test_bad_folders_are_explained(tmp_path, spoil, message):
    root = make_folder(tmp_path / "pets")
    load_folder(root)
    spoil(root)
    with pytest.raises(UserError) as caught:
        load_folder(root)
    assert message in str(caught.value)


@pytest.mark.parametrize("source", ["folder", "npz"])
@pytest.mark.parametrize("path", ["x" * 300, "~nobody-here/x", "nul\0byte"])
def test_paths_no_file_can_have_are_explained(source, path):
    with pytest.raises(UserError, match="does not exist"):
        load(DataConfig(source=source, path=path))


def test_the_size_error_names_the_way_out(tmp_path):
    odd_sizes(make_folder(tmp_path))
    with pytest.raises(UserError, match=r"--data\.image-size"):
        load_folder(tmp_path)


def test_a_class_selection_beyond_the_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has 3 classes, .* 4 classes from class 1 on"):
        load_folder(make_folder(tmp_path), first_class=1, num_classes=4)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_only_on_a_terminal(tmp_path, monkeypatch, capsys, terminal):
    root = make_folder(tmp_path)
    monkeypatch.setattr("mnemonics_jax.data.decoding._MANY", 10)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    load_folder(root)
    captured = capsys.readouterr()
    assert ("decoding images" in captured.err) == terminal
    assert captured.out == ""


# .npz files


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


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "folders"}, "unknown data source 'folders': did you mean 'folder'"),
        ({"source": "folder"}, "--data.path"),
        ({"source": "npz"}, "--data.path"),
        ({"path": "somewhere"}, "reads no path"),
        ({"image_size": 16}, "--data.image-size 16"),
        ({"source": "npz", "path": "a.npz", "image_size": 16}, "--data.image-size 16"),
        ({"source": "folder", "path": "a", "image_size": 3}, "--data.image-size is 3"),
        ({"first_class": -1}, "--data.first-class is -1"),
        ({"num_classes": 1}, "--data.num-classes is 1"),
        ({"crop_padding": -1}, "--data.crop-padding is -1"),
    ],
)
def test_contradictory_settings_are_explained(settings, message):
    with pytest.raises(UserError) as caught:
        load(DataConfig(**settings))
    assert message in str(caught.value)
