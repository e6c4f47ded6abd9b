"""Encoded images to one uint8 RGB array, in parallel."""

import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from mnemonics_jax.errors import UserError

# Scraped collections hold GIF and WebP files under the suffix .jpg. Nothing else is tried: among Pillow's other formats
# are some that hand the file to an external program.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
_CHUNK = 64
_MANY = 2000


Encoded = str | UInt8[np.ndarray, "rows columns channel"]
"""An image as its file, or as the decoded pixels that a record reader delivers."""


def decode_images(sources: Sequence[Encoded], size: int | None) -> UInt8[np.ndarray, "image height width 3"]:
    """All the images, in the order of `sources`, each brought to `size` by `size` pixels (None: left as it is).

    A progress bar stands on stderr while many are decoded, if that is a terminal. Raises `UserError` naming the first
    file that cannot be decoded or, with `size` None, whose size is not that of the first image.
    """
    # A list of warning filters belongs to the process, so it is set here and not by the threads.
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        shape = (size, size, 3) if size is not None else decode_image(sources[0], None).shape
        images = np.empty((len(sources), *shape), np.uint8)

        def fill(start: int) -> int:
            stop = min(start + _CHUNK, len(sources))
            for index in range(start, stop):
                image = decode_image(sources[index], size)
                if image.shape != shape:
                    raise UserError(
                        f"{_name(sources, index)} has {_pixels(image.shape)}, but {_name(sources, 0)} has "
                        f"{_pixels(shape)}: bring all images to one size with --data.image-size"
                    )
                images[index] = image
            return stop - start

        quiet = len(sources) < _MANY or not sys.stderr.isatty()
        with (
            Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress,
            ThreadPoolExecutor() as pool,
        ):
            bar = progress.add_task("decoding images", total=len(sources))
            # `map` answers in order, so it is the first bad file that is reported, and cancels the rest.
            for done in pool.map(fill, range(0, len(sources), _CHUNK)):
                progress.advance(bar, done)
    return images


def decode_image(source: Encoded, size: int | None) -> UInt8[np.ndarray, "height width 3"]:
    """One image as RGB; with `size`, its centre square scaled to that side by Pillow's antialiased bilinear filter.

    Raises `UserError` naming the file when it cannot be decoded.
    """
    rgb = open_image(source)
    return np.asarray(rgb if size is None else ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR))


def open_image(source: Encoded) -> Image.Image:
    """One image as RGB, upright by its EXIF orientation; of an animation, the first frame.

    Transparency is laid over black, 16-bit greyscale is scaled to 8 bits. Raises `UserError` naming the file when it
    cannot be decoded.
    """
    if not isinstance(source, str):
        return Image.fromarray(source.squeeze()).convert("RGB")
    try:
        with Image.open(source, formats=FORMATS) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{source} claims more pixels than can safely be decoded: shrink or remove it") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{source} is not an image in one of the formats {', '.join(FORMATS)}: remove it") from error
    # Pillow reports damaged files by OSError, SyntaxError, ValueError, struct.error and others, each format its own.
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
