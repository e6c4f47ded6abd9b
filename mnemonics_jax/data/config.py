"""Which images a run learns from, and how they are augmented."""

from dataclasses import dataclass

from mnemonics_jax.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """The data of a run."""

    source: str = "digits"
    """Where the images come from: digits (bundled with scikit-learn, 8x8, 10 classes), folder or npz."""

    path: str | None = None
    """The image folder (PATH/{train,test}/CLASS/*.jpg, .jpeg or .png) or the .npz file, for those two sources."""

    image_size: int | None = None
    """Side in pixels to which a folder's images are scaled and centre-cropped. None: their own size, all the same."""

    first_class: int = 0
    """The first class to use, counted from 0 in the order of the class names."""

    num_classes: int | None = None
    """How many classes to use, from the first on. None: all that follow."""

    crop_padding: int = 4
    """Augmentation: pad training images by this many black pixels, crop back to size at random. 0: no cropping."""

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
        if self.source in ("digits", "npz") and self.image_size is not None:
            raise UserError(
                f"--data.image-size {self.image_size} resizes the images of a folder; data source {self.source!r} "
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
