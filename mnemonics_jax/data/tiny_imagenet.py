"""Tiny ImageNet: 200 classes of 64×64 images, in the layout of its publisher's archive."""

import shutil
import zipfile
from pathlib import Path

import numpy as np

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset, class_range, make_dataset
from mnemonics_jax.data.download import Archive, data_folder, fetch
from mnemonics_jax.data.lazy_images import as_images
from mnemonics_jax.runtime.errors import UserError

ARCHIVE = Archive("http://cs231n.stanford.edu/tiny-imagenet-200.zip", 248100043, "90528d7ca1a48142e341f4ef8d21d0de")
_FOLDER = "tiny-imagenet-200"
_SUFFIX = ".JPEG"


def load_tiny_imagenet(config: DataConfig) -> Dataset:
    """Return Tiny ImageNet as uint8 RGB [n, 64, 64, 3]; its validation images, which have labels, are the test images.

    It is read from `config.path` or the user's cache: from the unpacked folder, or from the archive, which is unpacked
    there, and downloaded where it is not there either. Class names are WordNet ids, sorted.

    Raises:
        UserError: when the data cannot be had or read, or `config` selects classes that do not exist.
    """
    root = _unpacked(data_folder(config.path))
    names = sorted(_lines(root / "wnids.txt"))
    chosen = class_range(config.source, len(names), config.first_class, config.num_classes)
    names = names[chosen.start : chosen.stop]
    train = {name: sorted((root / "train" / name / "images").glob(f"*{_SUFFIX}")) for name in names}
    test: dict[str, list[Path]] = {name: [] for name in names}
    for line in _lines(root / "val" / "val_annotations.txt"):
        image, name = line.split("\t")[:2]
        if name in test:
            test[name].append(root / "val" / "images" / Path(image).name)
    paths = [[str(path) for of_class in split.values() for path in of_class] for split in (train, test)]
    labels = [
        np.repeat(np.arange(len(names), dtype=np.int32), [len(of_class) for of_class in split.values()])
        for split in (train, test)
    ]
    if not all(paths):
        raise UserError(f"{root} lacks images: remove it, and the archive is unpacked again")
    images = as_images(config, *paths)
    return make_dataset(config.source, (images[0], labels[0]), (images[1], labels[1]), tuple(names))


def _unpacked(folder: Path) -> Path:
    """Return the unpacked data set in `folder`, or `folder` itself where that is it."""
    root = folder / _FOLDER
    for place in (folder, root):
        if (place / "wnids.txt").exists():
            return place
    path, draft = fetch(ARCHIVE, folder), folder / f"{_FOLDER}.part"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(draft)
        (draft / _FOLDER).rename(root)
        draft.rmdir()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be unpacked in {folder} ({error}): free disk space and try again") from error
    return root


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove the folder, and it is unpacked again") from error
