"""Decoding of image files into one uint8 RGB array, in parallel."""

import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from mnemonics_jax.runtime.errors import UserError

# Image collections from the web contain GIF and WebP files with the suffix .jpg. Other formats are not tried: for some
# of them Pillow starts an external program.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
MOST_PIXELS = 89_478_485
"""Most pixels of an image file, in memory or streamed: at 3 bytes each a quarter of a GiB, Pillow's own limit."""
_CHUNK = 64
_MANY = 2000


Encoded = str | UInt8[np.ndarray, "rows columns channel"]
"""An image: the path of its file, or pixels that a data reader has decoded already."""


def decode_images(sources: Sequence[Encoded], size: int | None) -> UInt8[np.ndarray, "image height width 3"]:
    """Return all images in the order of `sources`, each `size` by `size` pixels (None: their own size).

    A progress bar appears on stderr for many images, if stderr is a terminal.

    Raises:
        UserError: names the first file that cannot be decoded or, if `size` is None, whose size differs from the first
            image's.
    """
    # Imported here, so that reading settings does not wait for it.
    from rich.console import Console
    from rich.progress import Progress

    # Ours is the error. Warning filters belong to the whole process, so this one is not set in threads.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        shape = (size, size, 3) if size is not None else decode_image(sources[0], None).shape
        images = np.empty((len(sources), *shape), np.uint8)

        def fill(start: int) -> int:
            stop = min(start + _CHUNK, len(sources))
            for index in range(start, stop):
                image = decode_image(sources[index], size)
                if image.shape != shape:
                    raise UserError(
                        f"{_name(sources, index)} has {_pixels(image.shape)}, but {_name(sources, 0)} has "
                        f"{_pixels(shape)}: give all images one size with --data.image-size"
                    )
                images[index] = image
            return stop - start

        quiet = len(sources) < _MANY or not sys.stderr.isatty()
        with (
            Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress,
            ThreadPoolExecutor() as pool,
        ):
            bar = progress.add_task("decoding images", total=len(sources))
            # `map` returns results in order, so the error is that of the first bad file; it also cancels the rest.
            for done in pool.map(fill, range(0, len(sources), _CHUNK)):
                progress.advance(bar, done)
    return images


def decode_image(source: Encoded, size: int | None) -> UInt8[np.ndarray, "height width 3"]:
    """Return one image as RGB; with `size`, its centre square scaled to that side.

    Pillow scales by an antialiased bilinear filter.

    Raises:
        UserError: names the file if it cannot be decoded.
    """
    rgb = open_image(source)
    return np.asarray(rgb if size is None else ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR))


def open_image(source: Encoded) -> Image.Image:
    """Return one image as RGB, turned upright by its EXIF orientation. An animation gives its first frame.

    Transparent images are laid over black. 16-bit greyscale is scaled to 8 bits.

    Raises:
        UserError: names the file if it cannot be decoded.
    """
    if not isinstance(source, str):
        return Image.fromarray(source.squeeze()).convert("RGB")
    try:
        with Image.open(source, formats=FORMATS) as image:
            # The header tells the size; nothing is decoded yet.
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            return _to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{source} claims more pixels than can safely be decoded ({MOST_PIXELS:,}): make the image smaller or "
            "remove it"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(f"{source} is not an image in one of the formats {', '.join(FORMATS)}: remove it") from error
    # For damaged files Pillow raises OSError, SyntaxError, ValueError, struct.error and others, by the format.
    except Exception as error:
        raise UserError(f"{source} cannot be decoded ({error}): replace or remove it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips 16-bit values at 255.
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    elif image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image.convert("RGB")


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} pixels"


def _name(sources: Sequence[Encoded], index: int) -> str:
    source = sources[index]
    return source if isinstance(source, str) else f"image {index}"
