"""What every data source delivers: uint8 images with integer labels, split into train and test."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int32, UInt8

from mnemonics_jax.data.fingerprint import array_hash, bytes_hash, images_hash
from mnemonics_jax.data.lazy_images import MEASURED, LazyImages
from mnemonics_jax.runtime.errors import UserError

Images = UInt8[np.ndarray, "image height width channel"]
Labels = Int32[np.ndarray, " image"]


@dataclass(frozen=True)
class Dataset:
    """A labelled image data set, in host memory or as `LazyImages`, which are decoded on demand.

    Labels are 0 .. C-1 in the order of `class_names`. The order in which classes arrive belongs to `Stream`. `mean` and
    `std` have one number for each channel, in units of the pixel range [0, 1]. They are measured on the training
    images; for `LazyImages`, on an evenly spaced part of them.
    """

    name: str
    train_images: UInt8[np.ndarray, "train height width channel"] | LazyImages
    train_labels: Int32[np.ndarray, " train"]
    test_images: UInt8[np.ndarray, "test height width channel"] | LazyImages
    test_labels: Int32[np.ndarray, " test"]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    packed: bool = False
    """Whether every image has gone through `packing`, so that a stored one takes its packed bytes."""

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channel) of one image."""
        height, width, channel = self.train_images.shape[1:]
        return height, width, channel

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """A hash of each part of the data set, so that a comparison can name the part that has changed.

        Large arrays take a second for each GiB, once.
        """
        names = (name.encode(errors="surrogatepass") + b"\0" for name in self.class_names)
        return {
            "class_names": bytes_hash(names),
            "train_images": images_hash(self.train_images),
            "train_labels": array_hash(self.train_labels),
            "test_images": images_hash(self.test_images),
            "test_labels": array_hash(self.test_labels),
        }

    def train_counts(self) -> np.ndarray:
        """Return the number of training images of each class, int64 [C]."""
        return np.bincount(self.train_labels, minlength=self.num_classes)


def make_dataset(
    name: str,
    train: tuple[UInt8[np.ndarray, "train height width channel"] | LazyImages, Int32[np.ndarray, " train"]],
    test: tuple[UInt8[np.ndarray, "test height width channel"] | LazyImages, Int32[np.ndarray, " test"]],
    class_names: tuple[str, ...],
) -> Dataset:
    """Return a `Dataset` with the normalisation constants measured on its training images.

    Args:
        name: the data set's name, for messages and reports.
        train: images, uint8 [n, H, W, channel], and labels, int32 [n].
        test: as `train`.
        class_names: the name of each label.

    Raises:
        UserError: if a class has no training or no test image.
    """
    for split, labels in (("train", train[1]), ("test", test[1])):
        counts = np.bincount(labels, minlength=len(class_names))
        if (counts == 0).any():
            missing = [class_names[c] for c in np.flatnonzero(counts == 0)[:5]]
            raise UserError(f"{name}: no {split} images for class {', '.join(missing)}; every class needs both splits")
    images = train[0]
    if isinstance(images, LazyImages):
        images = images[np.unique(np.linspace(0, len(images) - 1, MEASURED).astype(int))]
    mean, std = _pixel_statistics(images)
    return Dataset(name, *train, *test, class_names, mean, std)


def _pixel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel, in units of the pixel range [0, 1].

    Both come from integer histograms. They are exact, independent of the order of the images, and need no float64 copy
    of the data set, which would be eight times as large. A constant channel gets the deviation 1e-3, because pixels are
    divided by it.
    """
    pixels = images.reshape(-1, images.shape[-1])
    counts = np.zeros((pixels.shape[1], 256), np.int64)
    for start in range(0, len(pixels), 1 << 20):
        for channel, values in enumerate(pixels[start : start + (1 << 20)].T):
            counts[channel] += np.bincount(values, minlength=256)
    levels = np.arange(256) / 255
    mean = counts @ levels / len(pixels)
    variance = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / len(pixels)
    return tuple(mean.tolist()), tuple(np.maximum(np.sqrt(variance), 1e-3).tolist())


def class_range(name: str, total: int, first: int, count: int | None) -> range:
    """Return `count` classes from `first` on (None: all that follow) of the `total` classes of data set `name`.

    Raises:
        UserError: if the data set does not have those classes, or if fewer than two are left.
    """
    chosen = range(first, total if count is None else first + count)
    if first < 0 or len(chosen) < 2 or chosen.stop > total:
        asked = f"all classes from class {first} on" if count is None else f"{count} classes from class {first} on"
        raise UserError(
            f"{name} has {total} classes, numbered from 0, but the settings ask for {asked}: "
            "choose --data.first-class and --data.num-classes so that at least two existing classes remain"
        )
    return chosen


def take_classes(dataset: Dataset, first: int, count: int | None) -> Dataset:
    """Return the data set restricted to `count` classes from `first` on, in the order of `class_names`.

    Raises:
        UserError: if the data set does not have those classes (see `class_range`).
    """
    chosen = class_range(dataset.name, dataset.num_classes, first, count)
    if len(chosen) == dataset.num_classes:
        return dataset

    def part(
        images: Images, labels: Labels
    ) -> tuple[UInt8[np.ndarray, "kept height width channel"], Int32[np.ndarray, " kept"]]:
        keep = (labels >= chosen.start) & (labels < chosen.stop)
        return images[keep], (labels[keep] - chosen.start).astype(np.int32)

    return make_dataset(
        dataset.name,
        part(dataset.train_images, dataset.train_labels),
        part(dataset.test_images, dataset.test_labels),
        dataset.class_names[chosen.start : chosen.stop],
    )
