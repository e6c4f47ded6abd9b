"""The user's own images: PATH/{train,test}/CLASS/*.jpg, .jpeg or .png; `val` may stand for `test`."""

import os
from pathlib import Path

import numpy as np

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset, class_range, make_dataset
from mnemonics_jax.data.lazy_images import as_images
from mnemonics_jax.runtime.errors import UserError

SPLITS = ("train", "test")
_VALIDATION = "val"
"""Folder of the test images where there is no test/, as in ImageNet, whose test images have no labels."""
SUFFIXES = (".jpg", ".jpeg", ".png")


def load_image_folder(config: DataConfig) -> Dataset:
    """Return the images under `config.path` as uint8 RGB [n, H, W, 3], or as `LazyImages` if they are streamed.

    Without PATH/test/, the test images are those of PATH/val/. Class names are the names of the class folders, sorted.
    Only the classes that `config` selects are listed and decoded. Hidden files and files with other suffixes are
    ignored.

    Raises:
        UserError: names the file or folder if the layout is another than PATH/{train,test}/CLASS/, if a class is not in
            both splits or has no images, if a symbolic link leads out of `config.path`, if an image cannot be decoded,
            or if images differ in size and `config.image_size` is None.
    """
    root = Path(os.path.expanduser(config.path))
    if not os.path.isdir(root):
        found = "is a file" if os.path.exists(root) else "does not exist"
        raise UserError(f"{root} {found}: --data.path has to be a folder that contains train/ and test/")
    splits = _splits(root)
    names = _class_names(root, splits)
    chosen = class_range(str(root), len(names), config.first_class, config.num_classes)
    names = names[chosen.start : chosen.stop]
    files = [[_image_files(root, root / split / name) for name in names] for split in splits]
    paths = [[path for of_class in split for path in of_class] for split in files]
    labels = [np.repeat(np.arange(len(names), dtype=np.int32), [len(of_class) for of_class in s]) for s in files]
    train, test = as_images(config, *paths)
    return make_dataset(root.resolve().name, (train, labels[0]), (test, labels[1]), names)


def _splits(root: Path) -> tuple[str, str]:
    """Return the names of the folders of the training and of the test images."""
    validates = not (root / SPLITS[1]).exists() and os.path.isdir(root / _VALIDATION)
    return (SPLITS[0], _VALIDATION) if validates else SPLITS


def _class_names(root: Path, splits: tuple[str, str]) -> tuple[str, ...]:
    """Return the sorted names of the class folders. Both splits must have the same."""
    present = {entry.name: entry for entry in _entries(root)}
    for split in splits:
        if split not in present or not os.path.isdir(present[split].path):
            found = ", ".join(sorted(present)[:5]) or "nothing"
            raise UserError(
                f"{root} has no folder {split}/ (found: {found}): the layout is PATH/{{train,test}}/CLASS/*.jpg"
            )
        _check_link(root, present[split])
    classes = {}
    for split in splits:
        folders = [entry for entry in _entries(root / split) if os.path.isdir(entry.path)]
        for entry in folders:
            _check_link(root, entry)
        if not folders:
            raise UserError(f"{root / split} has no class folders: the layout is PATH/{{train,test}}/CLASS/*.jpg")
        classes[split] = {entry.name for entry in folders}
    for split, other in (splits, splits[::-1]):
        lonely = sorted(classes[split] - classes[other])
        if lonely:
            raise UserError(
                f"{root}: class {', '.join(lonely[:5])} is only in {split}/, not in {other}/; every class needs both"
            )
    return tuple(sorted(classes[splits[0]]))


def _image_files(root: Path, folder: Path) -> list[str]:
    """Return the paths of the images in one class folder, sorted by name."""
    paths = []
    for entry in _entries(folder):
        if not entry.name.lower().endswith(SUFFIXES):
            continue
        _check_link(root, entry)
        if entry.is_file():
            paths.append(entry.path)
    if not paths:
        raise UserError(
            f"{folder} has no images ({', '.join(SUFFIXES)}): add some or remove the class from both splits"
        )
    return paths


def _entries(folder: Path) -> list[os.DirEntry]:
    """Return the entries of `folder`, sorted by name, without hidden ones (such as the ._ files of macOS archives)."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}") from error


def _check_link(root: Path, entry: os.DirEntry) -> None:
    """Raise `UserError` if `entry` is a symbolic link that leads nowhere or out of `root`."""
    if not entry.is_symlink():
        return
    target = Path(os.path.realpath(entry.path))
    if not target.is_relative_to(os.path.realpath(root)):
        raise UserError(f"{entry.path} is a symbolic link out of {root}, to {target}: copy the images into the folder")
    if not os.path.exists(target):
        raise UserError(f"{entry.path} is a symbolic link to {target}, which does not exist: remove or repair the link")
