"""Images that are decoded on demand: a data set of any size in bounded memory."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.decoding import Encoded, decode_images, open_image
from mnemonics_jax.runtime.errors import UserError

_MOST_IN_MEMORY = 4 << 30
"""Most bytes of decoded images, training and test together, that are kept in memory by default."""
_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MEASURED = 1024
"""Number of streamed images on which the pixel statistics are measured."""
_CENTRE = 0.875
_TRIES = 10
RESIZED_AREA = (0.08, 1.0)
RESIZED_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class LazyImages:
    """n encoded images that are indexed like an array, uint8 [n, size, size, 3]. Worker processes can unpickle them.

    With `zoom`, an image is decoded as the square of 7/8 of its shorter side in its centre: the usual evaluation of
    networks trained on random resized crops. Without it, the square has the full shorter side.
    """

    records: Sequence[Encoded]
    size: int
    zoom: bool

    def __len__(self) -> int:
        return len(self.records)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, size, size, 3)."""
        return len(self.records), self.size, self.size, 3

    def __getitem__(self, index: Int[np.ndarray, "*batch"]) -> UInt8[np.ndarray, "*batch size size 3"]:
        """Return the images of `index`, decoded by this thread.

        Raises:
            UserError: names a file that cannot be decoded.
        """
        images = np.empty((index.size, self.size, self.size, 3), np.uint8)
        for row, i in enumerate(index.reshape(-1)):
            images[row] = self.decode(int(i))
        return images.reshape(*index.shape, self.size, self.size, 3)

    def decode(self, index: int) -> UInt8[np.ndarray, "size size 3"]:
        """Return one image.

        Raises:
            UserError: names the file if it cannot be decoded.
        """
        return np.asarray(centre(open_image(self.records[index]), self.size, _CENTRE if self.zoom else 1.0))


@dataclass(frozen=True)
class _Joined(Sequence):
    """Two sequences of encoded images, one after the other."""

    one: Sequence[Encoded]
    other: Sequence[Encoded]

    def __len__(self) -> int:
        return len(self.one) + len(self.other)

    def __getitem__(self, index: int) -> Encoded:
        return self.one[index] if index < len(self.one) else self.other[index - len(self.one)]


def as_images(
    config: DataConfig, train: Sequence[Encoded], test: Sequence[Encoded]
) -> (
    tuple[UInt8[np.ndarray, "train height width 3"], UInt8[np.ndarray, "test height width 3"]]
    | tuple[LazyImages, LazyImages]
):
    """Return the images of both splits, decoded or as `LazyImages`.

    They are `LazyImages` if `config` asks for streaming, or if it leaves the choice open and the decoded images would
    take more than 4 GiB.

    Raises:
        UserError: if images to be streamed have no common size, or if an image cannot be decoded.
    """
    size = config.image_size
    stream = config.stream
    if stream is None:
        stream = size is not None and (len(train) + len(test)) * size * size * 3 > _MOST_IN_MEMORY
    if stream and size is None:
        raise UserError("--data.stream needs one size for all images: give it with --data.image-size")
    held = min(MEASURED, len(train)) if stream else len(train) + len(test)
    if size is not None and (needed := held * size * size * 3) > _MEMORY:
        raise UserError(
            f"--data.image-size {size}: {held:,} images in memory take {needed / 2**30:,.1f} GiB, and this machine has "
            f"{_MEMORY / 2**30:,.1f} GiB: choose a smaller size{'' if stream else ', or --data.stream'}"
        )
    if stream:
        return LazyImages(train, size, config.resized_crop), LazyImages(test, size, config.resized_crop)
    images = decode_images(_Joined(train, test), size)
    return images[: len(train)], images[len(train) :]


def centre(image: Image.Image, size: int, share: float) -> Image.Image:
    """Return the centre square of `share` of the shorter side, scaled to `size` pixels (antialiased, bilinear)."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR, bleed=(1 - share) / 2)


def resized_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """Return a random rectangle of `image`, scaled to `size` by `size` pixels (Szegedy et al., CVPR 2015).

    The rectangle covers 8 to 100 % of the area (uniform). Its aspect ratio is 3:4 to 4:3 (log-uniform) and its place is
    uniform. If ten draws do not fit into the image, the result is the centre square.
    """
    width, height = image.size
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*RESIZED_AREA)
        aspect = math.exp(rng.uniform(*np.log(RESIZED_ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
    return centre(image, size, 1.0)
