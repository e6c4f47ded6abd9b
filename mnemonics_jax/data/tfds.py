"""CIFAR and ImageNet from TensorFlow Datasets' ArrayRecord files, read without TensorFlow."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Int, Int32, UInt8
from rich.console import Console
from rich.progress import track

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset, class_range, make_dataset
from mnemonics_jax.data.fingerprint import file_stamps
from mnemonics_jax.data.lazy_images import as_images
from mnemonics_jax.data.tfds_prepare import prepare
from mnemonics_jax.runtime.files import user_cache_folder, write_atomically

_SUBSET_SEED = 1993


@dataclass(frozen=True)
class _Known:
    """The names of a data set and its test split in TensorFlow Datasets, and how many classes to use (None: all)."""

    builder: str
    test: str
    classes: int | None = None


_KNOWN = {
    "tfds-cifar10": _Known("cifar10", "test"),
    "tfds-cifar100": _Known("cifar100", "test"),
    "imagenet2012": _Known("imagenet2012", "validation"),
    "imagenet-subset": _Known("imagenet2012", "validation", classes=100),
}


@dataclass(frozen=True)
class _Images(Sequence):
    """The pixels of some rows of a TensorFlow data source."""

    source: Sequence[dict]
    rows: Int[np.ndarray, " image"]
    folder: Path

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "height width channel"]:
        return self.source[int(self.rows[index])]["image"]

    def stamps(self) -> Iterator[bytes]:
        """Yield the rows, and name, size and time of each file of the data set."""
        yield self.rows.astype(np.int64).tobytes()
        yield from file_stamps(sorted(str(path) for path in self.folder.glob("*.array_record*")))


def load_tfds(config: DataConfig) -> Dataset:
    """Return the data set `config.source` with the classes that `config` selects. Prepare it first if necessary.

    `imagenet-subset` has the 100 classes of the literature: the first 100 of all 1000 after NumPy's legacy shuffle with
    seed 1993, then sorted back into ImageNet's order.

    Raises:
        UserError: if the data set cannot be prepared or does not have the selected classes.
    """
    # Imported here because the import takes a second, which users of other data sources should not wait for.
    import tensorflow_datasets as tfds

    # Silence two warnings: that the data set is not prepared (done below), and that OpenCV is missing (not needed).
    logging.set_verbosity(logging.ERROR)
    known = _KNOWN[config.source]
    builder = tfds.builder(known.builder, data_dir=config.path, file_format="array_record")
    if not builder.is_prepared():
        prepare(known.builder, Path(builder.data_dir))
        builder = tfds.builder(known.builder, data_dir=config.path, file_format="array_record")
    feature = builder.info.features["label"]
    classes = np.arange(feature.num_classes)
    if known.classes is not None:
        np.random.RandomState(_SUBSET_SEED).shuffle(classes)
        classes = np.sort(classes[: known.classes])
    chosen = class_range(config.source, len(classes), config.first_class, config.num_classes)
    classes = classes[chosen.start : chosen.stop]
    position = np.full(feature.num_classes, -1, np.int32)
    position[classes] = np.arange(len(classes), dtype=np.int32)
    records, labels = {}, {}
    for split in ("train", known.test):
        positions = position[_labels(builder, split)]
        rows = np.flatnonzero(positions >= 0)
        records[split] = _Images(builder.as_data_source(split=split), rows, Path(builder.data_dir))
        labels[split] = positions[rows]
    train, test = as_images(config, records["train"], records[known.test])
    names = tuple(feature.int2str(int(c)) for c in classes)
    return make_dataset(config.source, (train, labels["train"]), (test, labels[known.test]), names)


def _labels(builder: object, split: str) -> Int32[np.ndarray, " image"]:
    """Return the label of every image of a split, from a file in the user's cache once they have been read.

    An ArrayRecord stores each label beside its image, so reading all labels of ImageNet means reading all of ImageNet.
    """
    import tensorflow_datasets as tfds

    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    folder = Path(builder.data_dir)
    stamp = (folder / "dataset_info.json").stat().st_mtime_ns if (folder / "dataset_info.json").exists() else 0
    identity = hashlib.sha256(f"{folder.absolute()} {split} {len(source)} {stamp}".encode()).hexdigest()[:16]
    path = None
    with suppress(OSError):
        path = user_cache_folder("labels") / f"{builder.name}-{split}-{identity}.npy"
    if path is not None and path.exists():
        # A damaged file is read again from the data set.
        with suppress(OSError, ValueError, EOFError):
            labels = np.load(path, allow_pickle=False)
            if labels.shape == (len(source),) and labels.dtype == np.int32:
                return labels
    console = Console(stderr=True)
    rows = track(range(len(source)), f"reading the labels of {builder.name}, {split}", console=console, transient=True)
    labels = np.asarray([source[row]["label"] for row in rows], np.int32)
    # The file only saves time: on a full disk the run goes on without it.
    if path is not None:
        content = io.BytesIO()
        np.save(content, labels)
        with suppress(OSError):
            write_atomically(path, content.getvalue())
    return labels
