"""CIFAR-10 and CIFAR-100, read from the binary archives of their publisher; nothing in them is ever unpickled."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset, make_dataset, take_classes
from mnemonics_jax.data.download import Archive, data_folder, fetch
from mnemonics_jax.runtime.errors import UserError

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True)
class _Layout:
    """An archive and the files in it: images of both splits, and the names of the classes.

    A record is `label_bytes` labels, of which the last one counts, and then the red, green and blue planes.
    """

    archive: Archive
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    classes: int


LAYOUTS = {
    "cifar10": _Layout(
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", 170052171, "c32a1d4ab5d03f1284b67883e8d87530"
        ),
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
        label_bytes=1,
        classes=10,
    ),
    "cifar100": _Layout(
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", 168513733, "03b5dce01913d631647c71ecec9e9cb8"
        ),
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        label_bytes=2,
        classes=100,
    ),
}


def load_cifar(config: DataConfig) -> Dataset:
    """Return CIFAR-10 or CIFAR-100 as uint8 [n, 32, 32, 3], from `config.path` or the user's cache.

    The archive is downloaded where it is not there yet.

    Raises:
        UserError: when the archive cannot be had or read, or `config` selects classes that do not exist.
    """
    layout = LAYOUTS[config.source]
    path = fetch(layout.archive, data_folder(config.path))
    files = _read(path, (*layout.train, layout.test, layout.names))
    train = [_records(path, name, files[name], layout) for name in layout.train]
    names = tuple(files[layout.names].decode("ascii").split())
    dataset = make_dataset(
        config.source,
        (np.concatenate([images for images, _ in train]), np.concatenate([labels for _, labels in train])),
        _records(path, layout.test, files[layout.test], layout),
        names[: layout.classes],
    )
    return take_classes(dataset, config.first_class, config.num_classes)


def _read(path: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Return the content of the files of an archive, by name without the folder."""
    files: dict[str, bytes] = {}
    try:
        # As a stream: the archive is unpacked once, in the order of its files.
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if name in wanted and member.isfile():
                    files[name] = archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it, and it is downloaded again") from error
    if missing := [name for name in wanted if name not in files]:
        raise UserError(f"{path} lacks {', '.join(missing)}: remove it, and it is downloaded again")
    return files


def _records(
    path: Path, name: str, content: bytes, layout: _Layout
) -> tuple[UInt8[np.ndarray, "image 32 32 3"], Int32[np.ndarray, " image"]]:
    """Return the images and the labels of one file of records."""
    width = layout.label_bytes + _PIXELS
    if not content or len(content) % width:
        raise UserError(f"{path}: {name} is not made of records of {width} bytes: remove it")
    rows = np.frombuffer(content, np.uint8).reshape(-1, width)
    planes = rows[:, layout.label_bytes :].reshape(-1, 3, _SIDE, _SIDE)
    labels = rows[:, layout.label_bytes - 1].astype(np.int32)
    if labels.max() >= layout.classes:
        raise UserError(f"{path}: {name} has the label {labels.max()} of {layout.classes} classes: remove it")
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels
