"""CIFAR and Tiny ImageNet from archives of their publishers' layout, by way of a server on this machine."""

import functools
import hashlib
import io
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from mnemonics_jax import cli
from mnemonics_jax.data import DataConfig, cifar, download, load, tiny_imagenet
from mnemonics_jax.data.download import Archive, fetch
from mnemonics_jax.runtime.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Handler(BaseHTTPRequestHandler):
    """Serves `files` by name; ends each answer after `limits[i]` bytes; may ignore ranges."""

    def do_GET(self):
        server = self.server
        content = server.files[self.path.lstrip("/")]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        server.ranges.append(asked and int(asked[1]))
        first = int(asked[1]) if asked and server.resumes else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        limit = server.limits.pop(0) if server.limits else None
        self.wfile.write(content[first:] if limit is None else content[first : first + limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.files, made.limits, made.ranges, made.resumes = {}, [], [], True
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def offered(server, name, content):
    """The archive of some bytes on the server."""
    server.files[name] = content
    md5 = hashlib.md5(content).hexdigest()
    return Archive(f"http://127.0.0.1:{server.server_port}/{name}", len(content), md5)


BYTES = np.random.default_rng(0).bytes(3_000_000)


def test_a_file_is_downloaded_once(server, tmp_path, capsys):
    archive = offered(server, "a.bin", BYTES)
    assert fetch(archive, tmp_path / "data").read_bytes() == BYTES
    assert fetch(archive, tmp_path / "data").read_bytes() == BYTES
    assert server.ranges == [None]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.bin"]
    assert f"downloading {archive.url}, 3 MB" in capsys.readouterr().err


@pytest.mark.parametrize("resumes", [True, False])
def test_an_interrupted_download_goes_on(server, tmp_path, resumes):
    archive = offered(server, "a.bin", BYTES)
    server.limits, server.resumes = [1_000_000], resumes
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*\): run the same command again") as caught:
        fetch(archive, tmp_path)
    assert str(tmp_path / "a.bin") in str(caught.value)
    assert (tmp_path / "a.bin.part").stat().st_size == 1_000_000
    assert fetch(archive, tmp_path).read_bytes() == BYTES
    assert server.ranges == [None, 1_000_000]


def test_another_content_is_not_taken(server, tmp_path):
    archive = offered(server, "a.bin", BYTES)
    server.files["a.bin"] = BYTES[::-1]
    with pytest.raises(UserError, match="what came has another checksum"):
        fetch(archive, tmp_path)
    server.files["a.bin"] = BYTES + b"more"
    with pytest.raises(UserError, match="what came has another checksum"):
        fetch(archive, tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"a\.bin is not the file of http.*remove it"):
        fetch(archive, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"


def test_two_at_once_download_it_once(server, tmp_path):
    archive = offered(server, "a.bin", BYTES)
    threads = [threading.Thread(target=fetch, args=(archive, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.bin").read_bytes() == BYTES
    assert server.ranges == [None]


def test_without_a_network_the_command_says_where_to_put_the_file(tmp_path, capsys, monkeypatch):
    archive = Archive("http://127.0.0.1:9/cifar-100-binary.tar.gz", 10, "0")
    monkeypatch.setitem(cifar.LAYOUTS, "cifar100", cifar._Layout(archive, (), "", "", 2, 100))
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "cifar100", "--data.path", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9/cifar-100-binary.tar.gz cannot be downloaded (Connection refused)" in said.replace(
        "[Errno 111] ", ""
    )
    assert f"put it at {tmp_path / 'data' / 'cifar-100-binary.tar.gz'}" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def tar(files):
    """A .tar.gz of files by name."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def records(images, labels, label_bytes):
    """The publisher's records: labels, then the planes of each colour."""
    heads = np.stack([np.full(len(labels), 7)] * (label_bytes - 1) + [labels], axis=1).astype(np.uint8)
    return np.concatenate([heads, images.transpose(0, 3, 1, 2).reshape(len(images), -1)], axis=1).tobytes()


def parts(source, per_class=2):
    """Images, labels and archive of a small data set in the layout of `source`."""
    layout, rng = cifar.LAYOUTS[source], np.random.default_rng(1)
    files, train, test = {}, [], None
    for name in (*layout.train, layout.test):
        labels = rng.permutation(np.tile(np.arange(layout.classes), per_class))
        images = rng.integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
        files[f"folder/{name}"] = records(images, labels, layout.label_bytes)
        if name == layout.test:
            test = images, labels
        else:
            train.append((images, labels))
    names = "".join(f"class{number}\n" for number in range(layout.classes))
    files[f"folder/{layout.names}"] = (names + "\n").encode()
    return tuple(map(np.concatenate, zip(*train, strict=True))), test, files


def served(server, monkeypatch, source, files):
    layout = cifar.LAYOUTS[source]
    made = offered(server, layout.archive.name, tar(files))
    changed = cifar._Layout(made, layout.train, layout.test, layout.names, layout.label_bytes, layout.classes)
    monkeypatch.setitem(cifar.LAYOUTS, source, changed)


@pytest.mark.parametrize(("source", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_comes_back_bit_for_bit(server, tmp_path, monkeypatch, source, classes):
    train, test, files = parts(source)
    served(server, monkeypatch, source, files)
    for path in (None, str(tmp_path / "mine")):
        data = load(DataConfig(source=source, path=path))
        assert (data.name, data.num_classes, data.image_shape) == (source, classes, (32, 32, 3))
        assert data.class_names[:2] == ("class0", "class1")
        np.testing.assert_array_equal(data.train_images, train[0])
        np.testing.assert_array_equal(data.train_labels, train[1])
        np.testing.assert_array_equal(data.test_images, test[0])
        np.testing.assert_array_equal(data.test_labels, test[1])
    name = cifar.LAYOUTS[source].archive.name
    assert (tmp_path / "cache" / "mnemonics_jax" / "data" / name).exists()
    assert (tmp_path / "mine" / name).exists()
    some = load(DataConfig(source=source, path=str(tmp_path / "mine"), first_class=3, num_classes=4))
    assert some.class_names == ("class3", "class4", "class5", "class6")
    assert len(server.ranges) == 2


def spoilt(files, change):
    return {name: change(name, content) for name, content in files.items() if change(name, content) is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, content: None if "test" in name else content, r"lacks test\.bin"),
        (lambda name, content: content[:-1] if "train" in name else content, "not made of records of 3074 bytes"),
        (lambda name, content: b"" if "test" in name else content, "not made of records"),
        (lambda name, content: b"\xff" * len(content) if "test" in name else content, "label 255 of 100 classes"),
    ],
)
def test_an_archive_of_another_content_is_refused(server, tmp_path, monkeypatch, change, message):
    served(server, monkeypatch, "cifar100", spoilt(parts("cifar100", 1)[2], change))
    with pytest.raises(UserError, match=message):
        load(DataConfig(source="cifar100", path=str(tmp_path)))


def jpeg(shade):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, 0, 0)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def tiny(server, monkeypatch):
    """A Tiny ImageNet of three classes: their shade of red is 10, 80 and 150; test images are a little darker."""
    shades = {"n03": 10, "n01": 80, "n02": 150}
    files = {"wnids.txt": "\n".join(shades).encode(), "words.txt": b"n01\tgoldfish\n"}
    notes = []
    for name, shade in shades.items():
        for number in range(3):
            files[f"train/{name}/images/{name}_{number}.JPEG"] = jpeg(shade)
        files[f"train/{name}/{name}_boxes.txt"] = b"0 0 1 1\n"
        notes.append(f"val_{len(notes)}.JPEG\t{name}\t0\t0\t62\t62")
        files[f"val/images/val_{len(notes) - 1}.JPEG"] = jpeg(shade - 5)
    files["val/val_annotations.txt"] = "".join(f"{line}\n" for line in notes).encode()
    files["test/images/test_0.JPEG"] = jpeg(255)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", offered(server, "tiny-imagenet-200.zip", packed.getvalue()))


def test_tiny_imagenet_has_its_validation_images_as_test_images(tiny, server, tmp_path):
    config = functools.partial(DataConfig, source="tiny-imagenet", image_size=64)
    data = load(config(path=str(tmp_path)))
    assert data.class_names == ("n01", "n02", "n03")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.test_labels.tolist() == [0, 1, 2]
    assert np.abs(data.train_images[::3, 0, 0, 0].astype(int) - [80, 150, 10]).max() <= 2
    assert np.abs(data.test_images[:, 0, 0, 0].astype(int) - [75, 145, 5]).max() <= 2
    # From the unpacked folder, also where that is the path itself, and some classes alone.
    (tmp_path / "tiny-imagenet-200.zip").unlink()
    for path in (tmp_path, tmp_path / "tiny-imagenet-200"):
        some = load(config(path=str(path), first_class=1, num_classes=2))
        assert some.class_names == ("n02", "n03")
    assert len(server.ranges) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"tiny-imagenet-200"}


def test_the_archives_are_those_of_the_publishers():
    for archive in (*(layout.archive for layout in cifar.LAYOUTS.values()), tiny_imagenet.ARCHIVE):
        assert re.fullmatch(r"[0-9a-f]{32}", archive.md5)
        assert archive.size > 10**8
    assert cifar.LAYOUTS["cifar100"].archive.name == "cifar-100-binary.tar.gz"
    assert download.data_folder(None).name == "data"
