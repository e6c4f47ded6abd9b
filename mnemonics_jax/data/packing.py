"""Packed images: four bits for the brightness of a pixel, and colour at half the resolution; a quarter of RGB's bytes.

The conversion to brightness and two colour differences is that of ITU-R BT.601, colour is stored once for each 2×2
pixels (4:2:0), and each value has 16 levels. Unpacking interpolates colour linearly.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from mnemonics_jax.data.dataset import Dataset, make_dataset
from mnemonics_jax.data.lazy_images import LazyImages
from mnemonics_jax.runtime.errors import UserError

Plane = Float32[np.ndarray, "image _height _width"]

_LEVELS = 15
# Colour differences of photographs rarely leave this range, and 16 levels are then finer than over all 256 values.
_COLOUR = (-64.0, 64.0)
_LUMA = (0.0, 255.0)
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114
_TO_RED_DIFFERENCE, _TO_BLUE_DIFFERENCE = 0.713, 0.564


def packed_bytes(shape: tuple[int, int, int]) -> int:
    """Return the bytes of one packed image of `shape` (height, width, channel); channels are 1 or 3."""
    height, width, channel = shape
    colour = 2 * (-(-height // 2)) * (-(-width // 2)) if channel == 3 else 0
    return -(-(height * width) // 2) + -(-colour // 2)


def pack(images: UInt8[np.ndarray, "image height width channel"]) -> UInt8[np.ndarray, "image byte"]:
    """Return the packed bytes of each image, with one or three channels."""
    count, channel = len(images), images.shape[-1]
    if channel == 1:
        return _join(_level(images[..., 0].astype(np.float32), _LUMA).reshape(count, -1))
    red, green, blue = np.moveaxis(images.astype(np.float32), -1, 0)
    luma = np.float32(_RED) * red + np.float32(_GREEN) * green + np.float32(_BLUE) * blue
    planes = [_level(luma, _LUMA).reshape(count, -1)]
    colours = []
    for factor, colour in ((_TO_BLUE_DIFFERENCE, blue), (_TO_RED_DIFFERENCE, red)):
        halved = _halve(np.float32(factor) * (colour - luma))
        colours.append(_level(halved, _COLOUR).reshape(count, -1))
    return np.concatenate([_join(planes[0]), _join(np.concatenate(colours, axis=1))], axis=1)


def unpack(
    packed: UInt8[np.ndarray, "image byte"], shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "image height width channel"]:
    """Return the images of `shape` (height, width, channel) that `packed` stands for."""
    height, width, channel = shape
    luma_bytes = -(-(height * width) // 2)
    luma = _value(_split(packed[:, :luma_bytes], height * width), _LUMA).reshape(-1, height, width)
    if channel == 1:
        return _to_bytes(luma)[..., None]
    half = (-(-height // 2), -(-width // 2))
    levels = _split(packed[:, luma_bytes:], 2 * half[0] * half[1]).reshape(-1, 2, *half)
    blue_difference, red_difference = (_double(_value(levels[:, k], _COLOUR))[:, :height, :width] for k in (0, 1))
    red = luma + red_difference / np.float32(_TO_RED_DIFFERENCE)
    blue = luma + blue_difference / np.float32(_TO_BLUE_DIFFERENCE)
    green = (luma - np.float32(_RED) * red - np.float32(_BLUE) * blue) / np.float32(_GREEN)
    return _to_bytes(np.stack([red, green, blue], axis=-1))


def through_packing(
    images: UInt8[np.ndarray, "*batch height width channel"],
) -> UInt8[np.ndarray, "*batch height width channel"]:
    """Return what is left of the images once they have been packed and unpacked."""
    flat = images.reshape(-1, *images.shape[-3:])
    return unpack(pack(flat), flat.shape[1:]).reshape(images.shape)


def pack_dataset(dataset: Dataset) -> Dataset:
    """Return the data set with every image, of training and test, as it is after packing.

    New images and test images pass through it like the stored ones: otherwise a network would tell old classes from new
    ones by the style of their images.

    Raises:
        UserError: for streamed images, and for images of other than one or three channels.
    """
    images = (dataset.train_images, dataset.test_images)
    if any(isinstance(each, LazyImages) for each in images):
        raise UserError("--data.storage packed needs all images in memory: give --data.no-stream")
    if dataset.image_shape[2] not in (1, 3):
        raise UserError(
            f"--data.storage packed is for images of 1 or 3 channels, but {dataset.name} has {dataset.image_shape[2]}: "
            "leave it out"
        )
    train, test = (through_packing(each) for each in images)
    made = make_dataset(dataset.name, (train, dataset.train_labels), (test, dataset.test_labels), dataset.class_names)
    return replace(made, packed=True)


def _level(values: Shaped[np.ndarray, "..."], span: tuple[float, float]) -> UInt8[np.ndarray, "..."]:
    low, high = span
    share = (np.clip(values, low, high) - np.float32(low)) / np.float32(high - low)
    return np.rint(share * _LEVELS).astype(np.uint8)


def _value(levels: UInt8[np.ndarray, "..."], span: tuple[float, float]) -> Float32[np.ndarray, "..."]:
    low, high = span
    return levels.astype(np.float32) / np.float32(_LEVELS) * np.float32(high - low) + np.float32(low)


def _join(levels: UInt8[np.ndarray, "image value"]) -> UInt8[np.ndarray, "image byte"]:
    """Return bytes of two levels each; the last one has a zero if their number is odd."""
    even = np.pad(levels, ((0, 0), (0, levels.shape[1] % 2)))
    return (even[:, ::2] << 4) | even[:, 1::2]


def _split(packed: UInt8[np.ndarray, "image byte"], amount: int) -> UInt8[np.ndarray, "image {amount}"]:
    return np.stack([packed >> 4, packed & 15], axis=-1).reshape(len(packed), -1)[:, :amount]


def _halve(plane: Plane) -> Plane:
    """Return means of 2×2 pixels; an odd last row or column counts twice."""
    height, width = plane.shape[1:]
    even = np.pad(plane, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return even.reshape(len(plane), -(-height // 2), 2, -(-width // 2), 2).mean(axis=(2, 4))


def _double(plane: Plane) -> Plane:
    """Return the plane at twice its size, interpolated linearly between the middles of its pixels."""
    for axis in (1, 2):
        padded = np.pad(plane, [(1, 1) if k == axis else (0, 0) for k in range(3)], mode="edge")
        before, middle, after = (
            np.take(padded, np.arange(start, start + plane.shape[axis]), axis=axis) for start in (0, 1, 2)
        )
        pair = [np.float32(0.25) * other + np.float32(0.75) * middle for other in (before, after)]
        shape = [2 * n if k == axis else n for k, n in enumerate(plane.shape)]
        plane = np.stack(pair, axis=axis + 1).reshape(shape)
    return plane


def _to_bytes(values: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
