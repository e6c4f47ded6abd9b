"""Files from elsewhere, by way of the command line: each case is handled, or refused in one line that names the file.

The tables below are the cases tried; those of config.json are in test_config_file.py. What is handled stands in one
folder, on which a run goes through; what is refused is refused before anything is trained or written, without a
traceback.
"""

import json
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from mnemonics_jax import cli
from mnemonics_jax.data import npz as npz_source

SETTINGS = (
    *("--net.widths", "8", "8", "--train.epochs", "1", "--train.batch-size", "8", "--train.chunk-steps", "8"),
    *("--data.crop-padding", "1", "--base", "1", "--phases", "1", "--exemplars", "random", "--method", "lwf"),
    *("--exemplars.per-class", "2", "--exemplars.unroll-length", "2", "--data.image-size", "8"),
    *("--train.later-epochs", "1", "--train.balanced-steps", "0"),
)


def photo(seed, size=(8, 8)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


def palette(**options):
    image = photo(1).quantize(16)
    image.info.update(options)
    return image


FILM = [photo(seed, (9, 9)) for seed in range(3)]


def save(name, image, **options):
    return lambda folder: image.save(os.path.join(os.fsencode(folder), os.fsencode(name)), **options)


def png(*chunks):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def header(width, height, depth=8, colour=2):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


DATA, END = (b"IDAT", zlib.compress(bytes(8 * 25))), (b"IEND", b"")
DEEP = (b"IDAT", zlib.compress((b"\0" + bytes(range(48))) * 8))

# What is done to the folder of a class, or the class's name: all of it handled.
HANDLED = {
    "CMYK": save("cmyk.jpg", photo(2).convert("CMYK")),
    "palette": save("palette.png", palette()),
    "palette with transparency": save("clear.png", palette(), transparency=0),
    "16-bit grey": save("wide.png", Image.fromarray(np.full((8, 8), 40_000, np.uint16))),
    "16-bit colour": lambda folder: (folder / "deep.png").write_bytes(png(header(8, 8, 16), DEEP, END)),
    "1-bit": save("bits.png", photo(3).convert("1")),
    "grey and alpha": save("la.png", photo(3).convert("LA")),
    "colour and alpha": save("rgba.png", photo(3).convert("RGBA")),
    "fewer rows than claimed": lambda folder: (folder / "few.png").write_bytes(png(header(8, 80), DATA, END)),
    "progressive JPEG": save("steps.jpg", photo(4, (40, 30)), progressive=True),
    "animated PNG": save("film.png", FILM[0], save_all=True, append_images=FILM[1:]),
    "animated GIF as .jpg": save("gif.jpg", FILM[0], format="GIF", save_all=True, append_images=FILM[1:]),
    "animated WebP as .png": save("webp.png", FILM[0], format="WEBP", save_all=True, append_images=FILM[1:]),
    "one pixel": save("dot.png", photo(5, (1, 1))),
    "very flat": save("flat.png", photo(5, (900, 1))),
    "markup in the name": save("[red]x[bold].png", photo(6)),
    "a shell's words in the name": save("$(touch owned);`touch owned`.png", photo(6)),
    "an option as the name": save("-rf.png", photo(6)),
    "a format string as the name": save("%s{0}{x.__class__}.png", photo(6)),
    "a line break in the name": save("a\nb.png", photo(6), format="PNG"),
    "no UTF-8 in the name": save(b"\xff\xfe.png", photo(6), format="PNG"),
    "other scripts in the name": save("猫 ünï.png", photo(6)),
    "a long name": save("x" * 250 + ".png", photo(6)),
    "a folder named like an image": lambda folder: (folder / "folder.png").mkdir(),
    "a pipe named like an image": lambda folder: os.mkfifo(folder / "pipe.png"),
    "a hidden file": lambda folder: (folder / "._a.png").write_bytes(b"junk"),
    "another kind of file": lambda folder: (folder / "Thumbs.db").write_bytes(b"junk"),
    "a link within the data": lambda folder: (folder / "link.png").symlink_to(folder / "0.png"),
}


def make_folder(root, classes=("ant", "bee")):
    for split in ("train", "test"):
        for c, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                photo(10 * c + i).save(folder / f"{i}.png")
    return root


def run(source, path, out, *words):
    """The exit status of a run."""
    arguments = ["run", source, "--data.path", str(path), *SETTINGS, *words, "--out", str(out)]
    if source == "npz":
        at = arguments.index("--data.image-size")
        del arguments[at : at + 2]
    try:
        cli.main(arguments)
    except SystemExit as error:
        return error.code
    return 0


def test_what_is_handled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = make_folder(tmp_path / "[/x]" / "[red]pets", classes=("-x", os.fsdecode(b"\xff[bold]")))
    before = {path.name for path in (root / "train" / "-x").iterdir()}
    for make in HANDLED.values():
        make(root / "train" / "-x")
    assert len(list((root / "train" / "-x").iterdir())) == len(before) + len(HANDLED)
    assert run("images", root, tmp_path / "[/out]") == 0
    summary = json.loads((tmp_path / "[/out]" / "summary.json").read_text())
    assert summary["dataset"] == "[red]pets"
    assert "[red]pets" in capsys.readouterr().out
    # A second start says where it is; a report prints the name again.
    assert run("images", root, tmp_path / "[/out]") == 0
    cli.main(["report", str(tmp_path / "[/out]")])
    cli.main(["export", str(tmp_path / "[/out]")])
    assert not (tmp_path / "owned").exists()


def write(content, name="1.png"):
    return lambda folder: (folder / name).write_bytes(content(folder) if callable(content) else content)


def half(folder):
    photo(3, (64, 64)).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    return content[: len(content) // 2]


def as_format(kind):
    return lambda folder: photo(3).save(folder / "1.png", format=kind)


def link(to):
    return lambda folder: (folder / "1.png").symlink_to(to)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(owned) (w) file closefile\nshowpage\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
NOT_ONE = "1.png is not an image in one of the formats"
NO_MORE = "1.png claims more pixels than can safely be decoded"
BROKEN = "1.png cannot be decoded"

# What stands as train/bee/1.png, and what is said of it.
REFUSED_IMAGES = {
    "zero bytes": (write(b""), NOT_ONE),
    "text": (write(b"<html>404</html>"), NOT_ONE),
    "random bytes": (write(np.random.default_rng(0).bytes(5000)), NOT_ONE),
    "the first bytes of a PNG alone": (write(b"\x89PNG\r\n\x1a\n"), NOT_ONE),
    "truncated JPEG": (write(half), BROKEN),
    "PNG without data": (write(png(header(8, 8), END)), BROKEN),
    "PNG with a wrong checksum": (
        write(png(header(8, 8), DATA, END).replace(b"\0\0\0\x08", b"\0\0\0\x09", 1)),
        NOT_ONE,
    ),
    "bomb of 2.5 gigapixels": (write(png(header(50_000, 50_000), DATA, END)), NO_MORE),
    "bomb of 100 megapixels": (write(png(header(10_000, 10_000), DATA, END)), NO_MORE),
    "bomb in a text chunk": (
        write(png(header(8, 8), (b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8))), DATA, END)),
        BROKEN,
    ),
    "TIFF": (as_format("TIFF"), NOT_ONE),
    "BMP": (as_format("BMP"), NOT_ONE),
    "PDF": (as_format("PDF"), NOT_ONE),
    "PostScript, which Pillow would run": (write(EPS), NOT_ONE),
    "SVG that names a file": (write(SVG), NOT_ONE),
    "link out of the folder": (link("/etc/passwd"), "1.png is a symbolic link out of"),
    "link out by ..": (link("../../../outside.png"), "1.png is a symbolic link out of"),
    "link to nothing": (link("gone.png"), "1.png is a symbolic link to"),
    "link to itself": (link("1.png"), "1.png is a symbolic link to"),
}


def refused(capsys, status, name):
    """The one message with which a run was refused."""
    said = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in said.err + said.out
    assert said.err.startswith("mnemonics: ")
    assert name in said.err
    return said.err


@pytest.mark.parametrize("case", REFUSED_IMAGES)
def test_images_that_are_refused(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    make, message = REFUSED_IMAGES[case]
    root = make_folder(tmp_path / "pets")
    photo(0).save(tmp_path / "outside.png")
    (root / "train" / "bee" / "1.png").unlink()
    make(root / "train" / "bee")
    assert message in refused(capsys, run("images", root, tmp_path / "out"), "bee")
    assert {path.name for path in tmp_path.iterdir()} == {"pets", "outside.png"}, "nothing was written or run"


class Trap:
    """An object that would leave a trace if it were ever unpickled."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def arrays(**changes):
    images, labels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8), np.arange(6) % 2
    good = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    return lambda path: np.savez(path, **(good | changes))


def member(content):
    """An .npz whose train_images are these bytes."""

    def make(path):
        arrays()(path)
        with zipfile.ZipFile(path) as file:
            others = {name: file.read(name) for name in file.namelist() if name != "train_images.npy"}
        with zipfile.ZipFile(path, "w") as file:
            for name, data in {**others, "train_images.npy": content}.items():
                file.writestr(name, data)

    return make


def npy(shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n" + bytes(100)


TRAPS = np.array([Trap()] * 6, object)
REFUSED_ARRAYS = {
    "pickled images": (arrays(train_images=TRAPS), "train_images is an object array, which is never unpickled"),
    "pickled labels": (arrays(test_labels=TRAPS), "test_labels is an object array, which is never unpickled"),
    "pickled names": (arrays(class_names=TRAPS[:2]), "class_names is an object array, which is never unpickled"),
    "a pickle in place of an array": (member(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), "train_images"),
    "code in a header": (member(npy("__import__('os').mkdir('owned')")), "train_images cannot be read"),
    "a shape beyond all memory": (member(npy((10**6, 10**4, 10**4, 3))), "train_images cannot be read"),
    "a shape of more than there is": (member(npy((100, 8, 8, 3))), "train_images cannot be read"),
    "a negative shape": (member(npy((-1, 8, 8, 3))), "train_images"),
    "no zip": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)), "is not an .npz file"),
    "zero bytes": (lambda path: path.write_bytes(b""), "is not an .npz file"),
    "a member outside": (
        lambda path: zipfile.ZipFile(path, "w").writestr("../../owned", b"x"),
        "lacks train_images, train_labels, test_images, test_labels",
    ),
}


@pytest.mark.parametrize("case", REFUSED_ARRAYS)
def test_arrays_that_are_refused(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    make, message = REFUSED_ARRAYS[case]
    make(tmp_path / "data.npz")
    assert message in refused(capsys, run("npz", tmp_path / "data.npz", tmp_path / "out"), "data.npz")
    assert {path.name for path in tmp_path.iterdir()} == {"data.npz"}, "nothing was written or run"


def test_an_npz_beyond_memory_is_refused_unread(tmp_path, monkeypatch, capsys):
    arrays()(tmp_path / "data.npz")
    monkeypatch.setattr(npz_source, "_MEMORY", 1000)
    monkeypatch.setattr(np, "load", None)
    said = refused(capsys, run("npz", tmp_path / "data.npz", tmp_path / "out"), "data.npz")
    assert "more than the 1,000 bytes of this machine's memory" in said
