"""What an image folder delivers, and what is said about folders that cannot be used."""

import os
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from mnemonics_jax.data import DataConfig, load
from mnemonics_jax.runtime.errors import UserError


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


BEE = os.path.join("bee", "1.png")

BAD_FOLDERS = [
    ("no such folder", lambda root: root.rename(root.parent / "moved"), "pets does not exist"),
    ("no train", remove("train"), "no folder train/"),
    ("no test", remove("test"), "no folder test/"),
    ("test is a file", lambda root: (remove("test")(root), (root / "test").write_text("")), "no folder test/"),
    ("no class", remove(*(f"{s}/{c}" for s in ("train", "test") for c in ("ant", "bee", "cat"))), "no class folders"),
    ("class in train only", lambda root: (root / "train" / "dog").mkdir(), "class dog is only in train/"),
    ("class in test only", lambda root: (root / "test" / "dog").mkdir(), "class dog is only in test/"),
    ("class without images", empty_class, os.path.join("test", "dog") + " has no images"),
    ("zero bytes", write("train/bee/1.png", b""), BEE + " is not an image"),
    ("text", write("train/bee/1.png", b"hello"), BEE + " is not an image"),
    ("format not read", as_tiff, BEE + " is not an image"),
    ("truncated", write("test/bee/1.png", lambda data: data[:-40]), BEE + " cannot be decoded"),
    ("corrupt", write("test/bee/1.png", lambda data: data[:50] + b"\xff" * 30 + data[80:]), BEE + " cannot be decoded"),
    ("bomb", write("train/bee/1.png", huge_png(50_000, 50_000)), BEE + " claims more pixels"),
    ("small bomb", write("train/bee/1.png", huge_png(10_000, 10_000)), BEE + " claims more pixels"),
    ("image link out", link_out("train/ant/0.png", "0.png"), os.path.join("ant", "0.png") + " is a symbolic link out"),
    ("class link out", link_out("train/ant", "."), os.path.join("train", "ant") + " is a symbolic link out of"),
    ("split link out", link_out("train", "."), "train is a symbolic link out of"),
    ("dangling link", dangling, "9.png is a symbolic link to"),
    ("odd size", odd_sizes, BEE + " has 8x9 pixels"),
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


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("sides", "refused"), [((9_459, 9_459), False), ((9_460, 9_460), True)])
def test_in_memory_and_streamed_images_have_one_limit_before_they_are_decoded(tmp_path, stream, sides, refused):
    root = make_folder(tmp_path)
    (root / "train" / "bee" / "1.png").write_bytes(huge_png(*sides))
    # The smaller one passes the limit, and has no pixels.
    with pytest.raises(UserError, match="claims more pixels" if refused else "cannot be decoded"):
        load_folder(root, image_size=8, stream=stream)


@pytest.mark.parametrize("stream", [False, True])
def test_images_scaled_beyond_memory_are_refused(tmp_path, stream):
    with pytest.raises(UserError, match=r"--data\.image-size 4000000000: .* GiB, and this machine has .* GiB"):
        load_folder(make_folder(tmp_path), image_size=4_000_000_000, stream=stream)


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


def test_val_stands_for_test(tmp_path):
    root = make_folder(tmp_path)
    expected = load_folder(root)
    (root / "test").rename(root / "val")
    data = load_folder(root)
    np.testing.assert_array_equal(data.test_images, expected.test_images)
    # What has no labels, as ImageNet's test/, is not there; with both, test/ counts.
    make_folder(root / "more", test=1)
    (root / "more" / "test").rename(root / "test")
    assert len(load_folder(root).test_images) == 3


def test_a_class_that_val_lacks_is_told(tmp_path):
    root = make_folder(tmp_path)
    (root / "test").rename(root / "val")
    (root / "val" / "bee").rename(root / "val" / "bug")
    with pytest.raises(UserError, match="class bee is only in train/, not in val/"):
        load_folder(root)
