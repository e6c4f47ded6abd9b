"""Which images a run learns from, and how they are augmented."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import check_local

_FIXED = ("digits", "cifar10", "cifar100", "npz")
"""Sources of decoded images of one size, which are always in memory."""


@dataclass(frozen=True)
class DataConfig:
    """The data of a run, and how they are augmented."""

    source: str = "digits"
    """Where the images come from: digits (part of scikit-learn, 8x8 pixels, 10 classes); cifar10, cifar100 and
    tiny-imagenet (downloaded from their publishers); folder (your own image files); npz (your own arrays); or
    TensorFlow Datasets' imagenet2012, imagenet-subset (100 of its classes), tfds-cifar10 and tfds-cifar100.
    """

    path: str | None = None
    """For folder: the folder with train/CLASS/ and test/CLASS/ (or val/CLASS/) that hold .jpg, .jpeg or .png files. For
    npz: the file. For cifar10, cifar100 and tiny-imagenet: the folder of their archives (None: a folder in the user's
    cache). For TensorFlow Datasets: its data folder (None: TFDS_DATA_DIR or ~/tensorflow_datasets).
    """

    image_size: Annotated[int, Ge(4)] | None = None
    """Scale images to this side in pixels and crop their centre square. None: keep their size, which must be the same
    for all images.
    """

    stream: bool | None = None
    """Decode images when they are needed instead of keeping all of them in memory. None: only if image_size is set and
    all decoded images would take more than 4 GiB.
    """

    workers: Annotated[int, Ge(0), Le(1024)] | None = None
    """Number of processes that decode streamed training images. 0: use threads instead. None: half of the CPU cores, at
    most 16; threads on a machine with fewer than 8 cores.
    """

    first_class: Annotated[int, Ge(0)] = 0
    """Index of the first class to use, counted from 0 in the data set's order of classes."""

    num_classes: Annotated[int, Ge(2)] | None = None
    """Number of classes to use, starting with first_class. None: all classes from there on."""

    storage: Literal["bytes", "packed"] = "bytes"
    """Form in which exemplars are stored. bytes: one byte for each pixel and channel. packed: four bits for the
    brightness of a pixel, and colour at half the resolution. This takes a quarter of the bytes of RGB, so four times as
    many exemplars fit into the same memory: raise per_class. All images pass through it, also new ones and test images.
    """

    crop_padding: Annotated[int, Ge(0)] = 4
    """Augmentation: pad training images with this many black pixels on each side, then crop back to size at a random
    place. 0: no cropping.
    """

    resized_crop: bool = False
    """Augmentation: cut a random rectangle of 8 to 100 % of the area out of each training image and scale it back to
    size.
    """

    flip: bool = True
    """Augmentation: mirror each training image left to right with probability one half."""

    def validate(self) -> None:
        """Check that settings do not contradict each other, as far as this is possible without the data.

        Raises:
            UserError: for the first contradiction.
        """
        if self.path is not None:
            check_local("--data.path", self.path)
        if self.source in ("folder", "npz") and not self.path:
            raise UserError(f"data source {self.source!r} needs a path: give it with --data.path")
        if self.source == "digits" and self.path is not None:
            raise UserError(
                f"data source 'digits' reads no path, but --data.path is {self.path!r}: "
                "leave it out, or choose --data.source folder or npz"
            )
        if self.source in _FIXED and self.stream:
            raise UserError(
                f"--data.stream has no use for data source {self.source!r}, which is always in memory: leave it out"
            )
        if self.resized_crop and self.crop_padding:
            raise UserError(
                f"--data.resized-crop and --data.crop-padding {self.crop_padding} are two ways of cropping: "
                "choose --data.crop-padding 0, or --data.no-resized-crop"
            )
        if self.source in _FIXED and self.image_size is not None:
            raise UserError(
                f"--data.image-size {self.image_size} resizes image files, but data source {self.source!r} "
                "has images of a fixed size: leave it out"
            )
