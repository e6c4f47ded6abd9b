"""Images and labels from one NumPy .npz file."""

import os
import zipfile
from pathlib import Path

import numpy as np

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset, Images, make_dataset, take_classes
from mnemonics_jax.runtime.errors import UserError

REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")
_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_npz(config: DataConfig) -> Dataset:
    """Return the data set in the file `config.path`, restricted to the classes that `config` selects.

    The file holds `train_images` and `test_images`, uint8 [n, H, W, C] or [n, H, W] (one channel), and `train_labels`
    and `test_labels`, integers [n] that use every value from 0 to C-1. It may hold `class_names`, strings [C]. Nothing
    in the file is ever unpickled.

    Raises:
        UserError: names the file and the array if the content is anything else.
    """
    path = Path(os.path.expanduser(config.path))
    arrays = _read(path)
    images = {split: _images(path, f"{split}_images", arrays) for split in ("train", "test")}
    if images["train"].shape[1:] != images["test"].shape[1:]:
        shapes = " and ".join(str(images[split].shape[1:]) for split in ("train", "test"))
        raise UserError(f"{path}: train and test images differ in shape, {shapes}; both need the same [H, W, C]")
    labels = {split: _labels(path, split, arrays, len(images[split])) for split in ("train", "test")}
    names = _class_names(path, arrays, len(np.unique(labels["train"])))
    for split in ("train", "test"):
        _check_values(path, f"{split}_labels", labels[split], len(names))
    dataset = make_dataset(
        path.stem,
        (images["train"], labels["train"].astype(np.int32)),
        (images["test"], labels["test"].astype(np.int32)),
        names,
    )
    return take_classes(dataset, config.first_class, config.num_classes)


def _read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the file by name."""
    if not os.path.isfile(path):
        found = "is not a file" if os.path.exists(path) else "does not exist"
        raise UserError(f"{path} {found}: --data.path has to be an .npz file")
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} is not an .npz file: write it with numpy.savez or numpy.savez_compressed")
        # A compressed file of a few megabytes can unpack to a thousand times its size.
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
        if size > _MEMORY:
            raise UserError(
                f"{path} unpacks to {size:,} bytes, more than the {_MEMORY:,} bytes of this machine's memory: "
                "save fewer or smaller images"
            )
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in REQUIRED if key not in file.files]
            if missing:
                raise UserError(
                    f"{path} lacks {', '.join(missing)}; it has {', '.join(sorted(file.files)) or 'no arrays'}: "
                    "write the file again with all four arrays of images and labels"
                )
            return {key: _array(path, key, file) for key in (*REQUIRED, "class_names") if key in file.files}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    # NumPy takes a file without its beginning for a pickle, and refuses it by a ValueError.
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} is a damaged .npz file ({error}): write it again") from error


def _array(path: Path, key: str, file: np.lib.npyio.NpzFile) -> np.ndarray:
    try:
        array = file[key]
    # Damage raises BadZipFile, zlib.error, EOFError, ValueError or MemoryError, depending on its place.
    except Exception as error:
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path}: {key} is an object array, which is never unpickled: store one array of a plain dtype"
            ) from error
        raise UserError(f"{path}: {key} cannot be read ({error}): write the file again") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: {key} is not a NumPy array: write the file with numpy.savez")
    return array


def _images(path: Path, key: str, arrays: dict[str, np.ndarray]) -> Images:
    images = arrays[key]
    if images.dtype != np.uint8:
        raise UserError(f"{path}: {key} is {images.dtype}; it has to be uint8, 0 to 255")
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(
            f"{path}: {key} has shape {list(images.shape)}; it has to be [n, H, W, C] or [n, H, W], not empty"
        )
    if images.ndim == 3:
        return images[..., None]
    if images.shape[1] <= 4 < images.shape[3]:
        raise UserError(f"{path}: {key} has shape {list(images.shape)}; channels come last, [n, H, W, C]: transpose it")
    return images


def _labels(path: Path, split: str, arrays: dict[str, np.ndarray], count: int) -> np.ndarray:
    labels = arrays[f"{split}_labels"]
    if labels.dtype.kind not in "iu":
        raise UserError(f"{path}: {split}_labels is {labels.dtype}; labels have to be integers")
    if labels.ndim != 1:
        raise UserError(f"{path}: {split}_labels has shape {list(labels.shape)}; it has to be [n]")
    if len(labels) != count:
        raise UserError(f"{path}: {split}_labels has {len(labels)} entries for {count} images in {split}_images")
    return labels


def _class_names(path: Path, arrays: dict[str, np.ndarray], count: int) -> tuple[str, ...]:
    """Return the class names in the file; without them, the labels 0 to `count` - 1 as text."""
    if "class_names" not in arrays:
        return tuple(str(label) for label in range(count))
    names = arrays["class_names"]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise UserError(f"{path}: class_names is {names.dtype} {list(names.shape)}; it has to be strings [C]")
    return tuple(names.tolist())


def _check_values(path: Path, key: str, labels: np.ndarray, classes: int) -> None:
    """Raise `UserError` unless `labels` use every value from 0 to `classes` - 1 and no other."""
    present = np.unique(labels)
    beyond = present[(present < 0) | (present >= classes)]
    if len(beyond):
        raise UserError(
            f"{path}: {key} has the value {beyond[0]}; the labels of {classes} classes run from 0 to {classes - 1}"
        )
    absent = np.setdiff1d(np.arange(classes), present)
    if len(absent):
        raise UserError(
            f"{path}: {key} never has the value {absent[0]}; labels have to use every value from 0 to {classes - 1}"
        )
