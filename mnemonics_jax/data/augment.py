"""Augmentation and normalisation on the device, differentiable with respect to the pixels."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, PRNGKeyArray, UInt8

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset
from mnemonics_jax.data.pictures import RESIZED_AREA, RESIZED_ASPECT
from mnemonics_jax.errors import UserError

FloatImages = Float[Array | np.ndarray, "batch height width channel"]
Pixels = UInt8[Array | np.ndarray, "batch height width channel"] | FloatImages


def normalise(
    images: Pixels, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "batch height width channel"]:
    """(pixel - mean) / std for each channel.

    `images` are uint8, 0 to 255, or floats in [0, 1]; `mean` and `std` are in units of [0, 1]. The result is float32
    for uint8 images and has the images' own dtype otherwise.
    """
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


def random_crop(
    key: PRNGKeyArray, images: Pixels, padding: int
) -> UInt8[Array, "batch height width channel"] | Float[Array, "batch height width channel"]:
    """Each image shifted by its own offset, uniform in {-padding .. padding}^2 pixels, with zeros moving in.

    This is the usual padding by `padding` zeros on each side and cropping back to size; dtype and shape stay.
    """
    images = jnp.asarray(images)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)
    window = images.shape[1:]
    # One slice per image took the least time on the CPU, forward and backward together, among a gather by index, a
    # product with one-hot matrices and selects between shifted copies. Its adjoint, the opposite shift, as a custom
    # derivative would take less still, but JAX fails to differentiate that twice in reverse inside a scan.
    return jax.vmap(lambda image, corner: lax.dynamic_slice(image, (corner[0], corner[1], 0), window))(padded, corners)


def random_flip(
    key: PRNGKeyArray, images: Pixels
) -> UInt8[Array, "batch height width channel"] | Float[Array, "batch height width channel"]:
    """Each image mirrored left to right with probability one half; dtype and shape stay."""
    images = jnp.asarray(images)
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def random_resized_crop(key: PRNGKeyArray, images: Pixels) -> Float[Array, "batch height width channel"]:
    """A random rectangle of each image scaled back to size by linear interpolation (Szegedy et al., CVPR 2015).

    It covers 8 to 100 % of the area, uniformly, with an aspect ratio between 3:4 and 4:3 of the image's own,
    log-uniformly, at a uniform place; a side that would be longer than the image's is cut to it. The result is float,
    in [0, 1] for uint8 images.
    """
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    batch, sides = len(images), jnp.asarray(images.shape[1:3], images.dtype)
    area = jax.random.uniform(area_key, (batch,), images.dtype, *RESIZED_AREA)
    aspect = jnp.exp(jax.random.uniform(aspect_key, (batch,), images.dtype, *np.log(RESIZED_ASPECT)))
    share = jnp.minimum(jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], axis=1), 1)
    corner = jax.random.uniform(place_key, (batch, 2), images.dtype) * (1 - share) * sides

    def cut(image: Array, share: Array, corner: Array) -> Array:
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), 1 / share, -corner / share, "linear", antialias=False
        )

    return jax.vmap(cut)(images, share, corner)


@dataclass(frozen=True)
class Augmentation:
    """What is done to a batch of pixels before the network sees it. Hashable, so it can be a static argument of `jit`.

    `crop_padding` is in pixels (0: no such cropping); `mean` and `std` are per channel, in units of the pixel range
    [0, 1]; `resized_crop` is whether a random rectangle is cut out and scaled back to size.
    """

    crop_padding: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resized_crop: bool = False

    def train(self, key: PRNGKeyArray, images: Pixels) -> Float[Array, "batch height width channel"]:
        """Training images: cropped, flipped and normalised. The zeros that a crop brings in are black pixels."""
        crop_key, flip_key = jax.random.split(key)
        if self.crop_padding:
            images = random_crop(crop_key, images, self.crop_padding)
        if self.resized_crop:
            images = random_resized_crop(crop_key, images)
        if self.flip:
            images = random_flip(flip_key, images)
        return self.evaluate(images)

    def evaluate(self, images: Pixels) -> Float[Array, "batch height width channel"]:
        """Test images: only normalised."""
        return normalise(images, self.mean, self.std)


def augmentation(config: DataConfig, dataset: Dataset) -> Augmentation:
    """The augmentation that `config` asks for, with the normalisation constants of `dataset`.

    Raises `UserError` when the crop could leave nothing of an image.
    """
    side = min(dataset.image_shape[:2])
    if config.crop_padding >= side:
        raise UserError(
            f"--data.crop-padding {config.crop_padding} can crop all of an image away: the images of {dataset.name} "
            f"are {side} pixels on their shorter side; choose less than that (an eighth is usual)"
        )
    return Augmentation(config.crop_padding, config.flip, dataset.mean, dataset.std, config.resized_crop)
