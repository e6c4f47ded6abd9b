"""Which images a run learns from, and how they are augmented."""

from dataclasses import dataclass

from mnemonics_jax.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """The data of a run."""

    source: str = "digits"
    """Where the images come from: digits (bundled with scikit-learn, 8x8, 10 classes), folder, npz, or TensorFlow
    Datasets' cifar100, imagenet2012 and imagenet-subset (100 of its classes)."""

    path: str | None = None
    """The image folder (PATH/{train,test}/CLASS/*.jpg, .jpeg or .png), the .npz file, or the folder of TensorFlow
    Datasets (None: its own default, TFDS_DATA_DIR or ~/tensorflow_datasets)."""

    image_size: int | None = None
    """Side in pixels to which images are scaled and centre-cropped. None: their own size, all the same."""

    stream: bool | None = None
    """Decode images when they are needed rather than keep them all. None: where they would take more than 4 GiB."""

    workers: int | None = None
    """Processes that decode streamed images for training; 0: threads. None: half the processor's cores, up to 16."""

    first_class: int = 0
    """The first class to use, counted from 0 in the order of the class names."""

    num_classes: int | None = None
    """How many classes to use, from the first on. None: all that follow."""

    crop_padding: int = 4
    """Augmentation: pad training images by this many black pixels, crop back to size at random. 0: no cropping."""

    resized_crop: bool = False
    """Augmentation: cut out a random rectangle of 8 to 100 % of each training image and scale it back to size."""

    flip: bool = True
    """Augmentation: mirror each training image left to right with probability one half."""

    def validate(self) -> None:
        """Checks all that can be told without reading the data; raises `UserError` for the first mistake found."""
        if self.source in ("folder", "npz") and not self.path:
            raise UserError(f"data source {self.source!r} reads from a path: name it with --data.path")
        if self.source == "digits" and self.path is not None:
            raise UserError(
                f"data source 'digits' reads no path, but --data.path is {self.path!r}: "
                "leave it out, or choose --data.source folder or npz"
            )
        if self.source in ("digits", "npz") and self.stream:
            raise UserError(f"--data.stream: data source {self.source!r} is in memory already; leave it out")
        if self.workers is not None and self.workers < 0:
            raise UserError(f"--data.workers is {self.workers}; it has to be 0 (threads) or more")
        if self.resized_crop and self.crop_padding:
            raise UserError(
                f"--data.resized-crop and --data.crop-padding {self.crop_padding} are two ways of cropping: "
                "choose --data.crop-padding 0, or --data.no-resized-crop"
            )
        if self.source in ("digits", "npz") and self.image_size is not None:
            raise UserError(
                f"--data.image-size {self.image_size} resizes encoded images; data source {self.source!r} "
                "has images of a fixed size: leave it out"
            )
        if self.image_size is not None and self.image_size < 4:
            raise UserError(f"--data.image-size is {self.image_size}; it has to be at least 4 pixels")
        if self.first_class < 0:
            raise UserError(f"--data.first-class is {self.first_class}; classes are counted from 0")
        if self.num_classes is not None and self.num_classes < 2:
            raise UserError(f"--data.num-classes is {self.num_classes}; learning needs at least 2 classes")
        if self.crop_padding < 0:
            raise UserError(f"--data.crop-padding is {self.crop_padding}; it has to be 0 (no cropping) or more")
