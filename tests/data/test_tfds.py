"""TensorFlow Datasets, read and prepared: mocked, and written to disk in their format from images made here."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import example_serializer, file_adapters, naming, splits

from mnemonics_jax.data import DataConfig, load
from mnemonics_jax.data import tfds_prepare as preparing
from mnemonics_jax.data.lazy_images import LazyImages
from mnemonics_jax.runtime.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file


def write(root, name, parts):
    """Writes {split: (images, labels)} as a prepared data set, with the library's own serialiser and writer."""
    builder = tfds.builder(name, data_dir=root, file_format="array_record")
    features, folder = builder.info.features, builder.data_path
    folder.mkdir(parents=True)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    infos = []
    for split, (images, labels) in parts.items():
        fillers = {
            "cifar100": lambda i: {"id": f"{i}", "coarse_label": i % 20},
            "imagenet2012": lambda i: {"file_name": f"{i}.JPEG"},
        }[name]
        records = [
            (
                i,
                serializer.serialize_example(
                    features.encode_example({"image": png(image), "label": label, **fillers(i)})
                ),
            )
            for i, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
        template = naming.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record"
        )
        cut, shards = len(records) // 2, []
        for shard, part in enumerate((records[:cut], records[cut:])):
            path = template.sharded_filepath(shard_index=shard, num_shards=2)
            file_adapters.ArrayRecordFileAdapter.write_examples(path, part)
            shards.append(len(part))
        size = sum(len(record) for _, record in records)
        infos.append(splits.SplitInfo(name=split, shard_lengths=shards, num_bytes=size, filename_template=template))
    builder.info.set_splits(splits.SplitDict(infos))
    builder.info.write_to_directory(folder)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A CIFAR-100 of 300 training and 100 test images: its folder and its parts."""
    root, rng = tmp_path_factory.mktemp("tfds"), np.random.default_rng(0)
    parts = {
        split: (rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.permutation(np.arange(n) % 100).tolist())
        for split, n in (("train", 300), ("test", 100))
    }
    write(root, "cifar100", parts)
    return root, parts


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """An ImageNet of one image a class and split, 40×30 pixels; the label shows in the red channel's two halves."""
    root = tmp_path_factory.mktemp("tfds")
    labels = np.random.default_rng(1).permutation(1000)
    images = np.zeros((1000, 30, 40, 3), np.uint8)
    images[:, :15, :, 0], images[:, 15:, :, 0] = (labels // 32 * 8)[:, None, None], (labels % 32 * 8)[:, None, None]
    write(
        root, "imagenet2012", {"train": (images, labels.tolist()), "validation": (images[::-1], labels[::-1].tolist())}
    )
    return root


def shown(images):
    """The labels that ImageNet's images show."""
    top, bottom = (images[:, row, images.shape[2] // 2, 0].astype(int) for row in (1, -2))
    return np.rint(top / 8).astype(int) * 32 + np.rint(bottom / 8).astype(int)


def test_cifar100_on_disk_comes_back_bit_for_bit(cifar):
    root, parts = cifar
    data = load(DataConfig(source="tfds-cifar100", path=str(root)))
    assert (data.name, data.num_classes, data.image_shape) == ("tfds-cifar100", 100, (32, 32, 3))
    np.testing.assert_array_equal(data.train_images, parts["train"][0])
    np.testing.assert_array_equal(data.train_labels, parts["train"][1])
    np.testing.assert_array_equal(data.test_images, parts["test"][0])
    np.testing.assert_array_equal(data.test_labels, parts["test"][1])


def test_some_classes_of_cifar100(cifar):
    root, parts = cifar
    data = load(DataConfig(source="tfds-cifar100", path=str(root), first_class=10, num_classes=3))
    images, labels = parts["train"][0], np.asarray(parts["train"][1])
    keep = (labels >= 10) & (labels < 13)
    np.testing.assert_array_equal(data.train_images, images[keep])
    np.testing.assert_array_equal(data.train_labels, labels[keep] - 10)


def test_labels_are_read_once(cifar, tmp_path, monkeypatch):
    config = DataConfig(source="tfds-cifar100", path=str(cifar[0]))
    first = load(config)
    files = sorted((tmp_path / "cache" / "mnemonics_jax" / "labels").iterdir())
    assert len(files) == 2
    monkeypatch.setattr("mnemonics_jax.data.tfds.track", None)
    np.testing.assert_array_equal(load(config).train_labels, first.train_labels)


def test_a_full_disk_keeps_no_labels_and_stops_nothing(cifar, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mnemonics_jax.data.tfds.write_atomically", full)
    assert len(load(DataConfig(source="tfds-cifar100", path=str(cifar[0]))).train_labels)
    assert not list((tmp_path / "cache" / "mnemonics_jax" / "labels").iterdir())


def test_the_subset_has_the_literature_s_hundred_classes(imagenet):
    config = DataConfig(source="imagenet-subset", path=str(imagenet), image_size=24, stream=True)
    data = load(config)
    np.random.seed(1993)
    order = np.arange(1000)
    np.random.shuffle(order)
    assert isinstance(data.train_images, LazyImages)
    assert data.num_classes == 100
    names = tfds.builder("imagenet2012", data_dir=imagenet).info.features["label"].names
    assert data.class_names == tuple(names[c] for c in sorted(order[:100]))
    everything = np.arange(100)
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert images[everything].shape == (100, 24, 24, 3)
        np.testing.assert_array_equal(shown(images[everything]), np.sort(order[:100])[labels])


def test_imagenet_in_memory_and_streamed_agree(imagenet):
    config = {"source": "imagenet2012", "path": str(imagenet), "image_size": 16, "first_class": 990}
    kept, streamed = load(DataConfig(**config)), load(DataConfig(**config, stream=True))
    np.testing.assert_array_equal(streamed.train_images[np.arange(10)], kept.train_images)
    np.testing.assert_array_equal(shown(kept.train_images), 990 + kept.train_labels)
    assert kept.mean == streamed.mean


def test_mocked_cifar100(monkeypatch, tmp_path):
    monkeypatch.setattr("mnemonics_jax.data.tfds.prepare", lambda name, folder: None)
    labels = np.arange(300, dtype=np.int32) % 100
    # The mock draws images; its encoder for skipped decoding, and with it the labels' way, needs TensorFlow.
    monkeypatch.setattr("mnemonics_jax.data.tfds._labels", lambda builder, split: labels)
    with tfds.testing.mock_data(num_examples=300):
        data = load(DataConfig(source="tfds-cifar100", path=str(tmp_path)))
    assert data.train_images.shape == (300, 32, 32, 3)
    assert data.train_images.std() > 10
    assert data.num_classes == 100


def test_reading_imports_no_tensorflow(cifar):
    code = (
        "import sys; from mnemonics_jax.data import DataConfig, load; "
        f"load(DataConfig(source='tfds-cifar100', path={str(cifar[0])!r})); sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def stub(folder, **modules):
    for name, text in modules.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)
    return folder


def test_without_tensorflow_the_error_names_the_extra(tmp_path, monkeypatch, capfd):
    missing = "raise ImportError('no TensorFlow here')"
    monkeypatch.setenv(
        "PYTHONPATH", f"{stub(tmp_path / 'stubs', tensorflow=missing)}:{Path(preparing.__file__).parents[2]}"
    )
    with pytest.raises(UserError, match=r'pip install "mnemonics-jax\[prepare\]"') as caught:
        load(DataConfig(source="tfds-cifar100", path=str(tmp_path / "data")))
    assert "importlib_resources" in str(caught.value)
    assert "0.3 GiB" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("source", "name", "files"),
    [
        ("tfds-cifar10", "cifar10", "cifar-10-binary.tar.gz"),
        ("tfds-cifar100", "cifar100", "cifar-100-binary.tar.gz"),
        ("imagenet2012", "imagenet2012", "ILSVRC2012_img_train.tar"),
    ],
)
def test_without_network_the_error_says_which_files_to_put_where(tmp_path, monkeypatch, source, name, files):
    failing = "import builtins\ndef builder(*_, **__): raise ConnectionError('no route to host')\n"
    stubs = stub(tmp_path / "stubs", tensorflow="", importlib_resources="", tensorflow_datasets=failing)
    monkeypatch.setenv("PYTHONPATH", f"{stubs}:{Path(preparing.__file__).parents[2]}")
    with pytest.raises(UserError, match="no route to host") as caught:
        load(DataConfig(source=source, path=str(tmp_path / "data")))
    message = str(caught.value)
    assert files in message
    assert str(tmp_path / "data" / "downloads" / "manual") in message
    assert str(tmp_path / "data" / name) in message


def test_the_preparing_process_sees_no_accelerator(tmp_path, monkeypatch):
    report = (
        "import os\n"
        "class B:\n    def download_and_prepare(self, **_): raise ValueError(os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "class download:\n    DownloadConfig = staticmethod(lambda **_: None)\n"
        "def builder(*_, **__): return B()\n"
    )
    stubs = stub(tmp_path / "stubs", tensorflow="", importlib_resources="", tensorflow_datasets=report)
    monkeypatch.setenv("PYTHONPATH", f"{stubs}:{Path(preparing.__file__).parents[2]}")
    with pytest.raises(UserError, match="ValueError: -1"):
        preparing.prepare("cifar100", tmp_path / "cifar100" / "3.0.2")
    assert "tensorflow" not in sys.modules
