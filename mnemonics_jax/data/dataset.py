"""What every data source delivers: uint8 images with integer labels, split into train and test."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, UInt8

from mnemonics_jax.errors import UserError

Images = UInt8[np.ndarray, "image height width channel"]
Labels = Int32[np.ndarray, "image"]


@dataclass(frozen=True)
class Dataset:
    """A labelled image data set in host memory.

    Labels are 0 .. C-1 in the order of `class_names`; the order in which classes arrive is the stream's business.
    `mean` and `std` are per channel, in units of the pixel range [0, 1], measured on the training images.
    """

    name: str
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channel) of one image."""
        height, width, channel = self.train_images.shape[1:]
        return height, width, channel

    def train_counts(self) -> np.ndarray:
        """Training images of each class, int64 [C]."""
        return np.bincount(self.train_labels, minlength=self.num_classes)


def make_dataset(
    name: str,
    train: tuple[Images, Labels],
    test: tuple[Images, Labels],
    class_names: tuple[str, ...],
) -> Dataset:
    """A `Dataset` with the normalisation constants measured on its training images.

    Raises `UserError` when a class has no training or no test image.
    """
    for split, labels in (("train", train[1]), ("test", test[1])):
        counts = np.bincount(labels, minlength=len(class_names))
        if (counts == 0).any():
            missing = [class_names[c] for c in np.flatnonzero(counts == 0)[:5]]
            raise UserError(f"{name}: no {split} images for class {', '.join(missing)}; every class needs both splits")
    # float64 sums of integers are exact below 2**53, so the constants do not depend on the order of the images.
    pixels = train[0].reshape(-1, train[0].shape[-1])
    mean = pixels.mean(axis=0, dtype=np.float64) / 255
    std = np.maximum(pixels.std(axis=0, dtype=np.float64) / 255, 1e-3)
    return Dataset(name, *train, *test, class_names, tuple(mean.tolist()), tuple(std.tolist()))


def take_classes(dataset: Dataset, first: int, count: int | None) -> Dataset:
    """The data set restricted to `count` classes from the `first` on, in the order of `class_names`.

    Raises `UserError` when the data set does not have those classes.
    """
    total = dataset.num_classes
    count = total - first if count is None else count
    if first < 0 or count < 2 or first + count > total:
        raise UserError(
            f"classes {first}..{first + count - 1} asked of {dataset.name}, which has {total} classes: "
            f"choose --data.first-class and --data.num-classes within 0..{total - 1}, at least two classes"
        )
    if count == total:
        return dataset

    def part(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keep = (labels >= first) & (labels < first + count)
        return images[keep], (labels[keep] - first).astype(np.int32)

    return make_dataset(
        dataset.name,
        part(dataset.train_images, dataset.train_labels),
        part(dataset.test_images, dataset.test_labels),
        dataset.class_names[first : first + count],
    )
