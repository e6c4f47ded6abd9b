"""Augmentation and normalisation on the device, differentiable with respect to the pixels."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, PRNGKeyArray, UInt8

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset
from mnemonics_jax.data.lazy_images import RESIZED_AREA, RESIZED_ASPECT
from mnemonics_jax.runtime.errors import UserError

FloatImages = Float[Array | np.ndarray, "batch height width channel"]
Pixels = UInt8[Array | np.ndarray, "batch height width channel"] | FloatImages


def normalise(
    images: Pixels, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "batch height width channel"]:
    """Return (pixel - mean) / std for each channel.

    Args:
        images: uint8, 0 to 255, or floats in [0, 1].
        mean: one number for each channel, in units of the pixel range [0, 1].
        std: as `mean`.

    Returns:
        float32 for uint8 images, otherwise the dtype of `images`.
    """
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


def random_crop(
    key: PRNGKeyArray, images: Pixels, padding: int
) -> UInt8[Array, "batch height width channel"] | Float[Array, "batch height width channel"]:
    """Shift each image by its own random offset and fill the uncovered border with zeros.

    The offset is uniform in {-padding .. padding}^2 pixels. This is the usual random crop: pad each side with `padding`
    zeros, then crop back to size. Dtype and shape stay the same.
    """
    images = jnp.asarray(images)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)
    window = images.shape[1:]
    # One slice per image was the fastest on the CPU, forward and backward together. The alternatives were a gather by
    # index, a product with one-hot matrices, and selects between shifted copies. A custom derivative (the opposite
    # shift) would be faster still, but JAX fails to differentiate it twice in reverse mode inside a scan.
    return jax.vmap(lambda image, corner: lax.dynamic_slice(image, (corner[0], corner[1], 0), window))(padded, corners)


def random_flip(
    key: PRNGKeyArray, images: Pixels
) -> UInt8[Array, "batch height width channel"] | Float[Array, "batch height width channel"]:
    """Mirror each image left to right with probability one half. Dtype and shape stay the same."""
    images = jnp.asarray(images)
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def random_resized_crop(key: PRNGKeyArray, images: Pixels) -> Float[Array, "batch height width channel"]:
    """Cut a random rectangle out of each image and scale it back to size (Szegedy et al., CVPR 2015).

    The rectangle covers 8 to 100 % of the area (uniform). Its aspect ratio is 3:4 to 4:3 of the image's own
    (log-uniform) and its place is uniform. A side that would be longer than the image is shortened to the image.
    Scaling is linear. The result is float, in [0, 1] for uint8 images.
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
    """The processing of a batch of pixels before the network. Hashable, so it can be a static argument of `jit`.

    `crop_padding` is in pixels (0: no shifted crop). `mean` and `std` have one number for each channel, in units of the
    pixel range [0, 1]. `resized_crop` switches `random_resized_crop` on.
    """

    crop_padding: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resized_crop: bool = False

    def train(self, key: PRNGKeyArray, images: Pixels) -> Float[Array, "batch height width channel"]:
        """Return training images: cropped, flipped and normalised. The zeros that a crop brings in are black pixels."""
        crop_key, flip_key = jax.random.split(key)
        if self.crop_padding:
            images = random_crop(crop_key, images, self.crop_padding)
        if self.resized_crop:
            images = random_resized_crop(crop_key, images)
        if self.flip:
            images = random_flip(flip_key, images)
        return self.evaluate(images)

    def evaluate(self, images: Pixels) -> Float[Array, "batch height width channel"]:
        """Return test images: only normalised."""
        return normalise(images, self.mean, self.std)


def augmentation(config: DataConfig, dataset: Dataset) -> Augmentation:
    """Return the augmentation that `config` asks for, with the normalisation constants of `dataset`.

    Raises:
        UserError: if the crop could remove a whole image.
    """
    side = min(dataset.image_shape[:2])
    if config.crop_padding >= side:
        raise UserError(
            f"--data.crop-padding {config.crop_padding} can crop a whole image away: the images of {dataset.name} "
            f"are {side} pixels on their shorter side; choose a smaller padding (an eighth of the side is usual)"
        )
    return Augmentation(config.crop_padding, config.flip, dataset.mean, dataset.std, config.resized_crop)
