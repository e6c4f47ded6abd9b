"""Augmentation against plain NumPy, and its derivatives against the adjoint identity and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.data.augmentation import Augmentation, augmentation, normalise, random_crop, random_flip
from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import make_dataset
from mnemonics_jax.runtime.errors import UserError


def pixels(shape, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    # No zeros, so that what a crop pads can be told from what it keeps.
    return (
        rng.integers(1, 256, shape).astype(np.uint8) if dtype == np.uint8 else rng.uniform(0.1, 1, shape).astype(dtype)
    )


def shifted(image, row, column):
    """`image` with its content moved by (-row, -column) pixels and zeros moving in, pixel by pixel."""
    height, width = image.shape[:2]
    result = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            if 0 <= i + row < height and 0 <= j + column < width:
                result[i, j] = image[i + row, j + column]
    return result


def offsets_of(images, crops, padding):
    """The (row, column) shift of each crop, found by trying all of them; exactly one has to fit."""
    reach = range(-padding, padding + 1)
    found = []
    for image, crop in zip(images, crops, strict=True):
        fits = [(r, c) for r in reach for c in reach if np.array_equal(shifted(image, r, c), crop)]
        assert len(fits) == 1
        found.append(fits[0])
    return np.array(found)


@pytest.mark.parametrize(("height", "width", "channel"), [(8, 8, 1), (5, 7, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_crop_is_a_zero_padded_shift(height, width, channel, dtype):
    images = pixels((40, height, width, channel), dtype)
    crops = random_crop(jax.random.key(1), jnp.asarray(images), 2)
    assert crops.dtype == dtype
    offsets = offsets_of(images, np.asarray(crops), 2)
    assert len(np.unique(offsets, axis=0)) > 10


def test_crop_offsets_are_uniform_and_independent_of_each_other():
    image = pixels((1, 6, 6, 1))
    crops = random_crop(jax.random.key(0), jnp.asarray(np.repeat(image, 3600, axis=0)), 1)
    table = {shifted(image[0], r, c).tobytes(): 3 * (r + 1) + (c + 1) for r in (-1, 0, 1) for c in (-1, 0, 1)}
    counts = np.bincount([table[crop.tobytes()] for crop in np.asarray(crops)], minlength=9)
    # Binomial(3600, 1/9): standard deviation 19.
    assert np.all(np.abs(counts - 400) < 5 * 19)


def test_padding_zero_changes_nothing():
    images = pixels((4, 6, 6, 3))
    np.testing.assert_array_equal(random_crop(jax.random.key(0), jnp.asarray(images), 0), images)


def test_flips_mirror_the_columns_of_about_half_the_images():
    images = pixels((1000, 4, 5, 2))
    flipped = np.asarray(random_flip(jax.random.key(3), jnp.asarray(images)))
    mirrored = [np.array_equal(new, old[:, ::-1]) for new, old in zip(flipped, images, strict=True)]
    kept = [np.array_equal(new, old) for new, old in zip(flipped, images, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert abs(sum(mirrored) - 500) < 5 * 16


@pytest.mark.parametrize("transform", [partial(random_crop, padding=3), random_flip])
def test_transforms_are_set_by_their_key(transform):
    images = jnp.asarray(pixels((32, 8, 8, 3)))
    first = transform(jax.random.key(5), images)
    np.testing.assert_array_equal(first, transform(jax.random.key(5), images))
    np.testing.assert_array_equal(first, jax.jit(transform)(jax.random.key(5), images))
    assert not np.array_equal(first, transform(jax.random.key(6), images))


@pytest.mark.parametrize("transform", [partial(random_crop, padding=3), random_flip])
def test_the_gradient_is_the_adjoint(transform):
    """<A x, y> = <x, A^T y>, where A is the whole matrix of the transform, taken from its action on a basis."""
    shape = (3, 4, 4, 2)
    key = jax.random.key(2)
    with jax.enable_x64(True):
        basis = np.eye(np.prod(shape)).reshape(-1, *shape)
        matrix = np.stack([np.asarray(transform(key, jnp.asarray(b))).ravel() for b in basis], axis=1)
        y = pixels(shape, np.float64, seed=1)
        pulled = jax.vjp(lambda x: transform(key, x), jnp.asarray(pixels(shape, np.float64)))[1](jnp.asarray(y))[0]
        assert pulled.dtype == np.float64
        np.testing.assert_allclose(np.ravel(pulled), matrix.T @ y.ravel(), rtol=1e-14)


def test_second_derivatives_through_a_scan_match_finite_differences():
    """d/dx of |dL/dx|^2, with L a sum over the augmented batches of a scan, as in the meta-gradient."""
    augment = Augmentation(crop_padding=2, flip=True, mean=(0.4, 0.5), std=(0.2, 0.3))
    shape = (2, 4, 4, 2)
    with jax.enable_x64(True):
        x, direction = (jnp.asarray(pixels(shape, np.float64, seed)) for seed in (0, 1))
        keys = jax.random.split(jax.random.key(0), 3)

        def loss(x):
            def step(total, key):
                return total + jnp.sum(jnp.sin(augment.train(key, x)) ** 2), None

            return jax.lax.scan(step, jnp.zeros(()), keys)[0]

        @jax.jit
        def squared_norm(x):
            return jnp.sum(jax.grad(loss)(x) ** 2)

        step = 1e-6
        numeric_first = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
        np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(x), direction), numeric_first, rtol=1e-7)
        numeric = (squared_norm(x + step * direction) - squared_norm(x - step * direction)) / (2 * step)
        np.testing.assert_allclose(jnp.vdot(jax.grad(squared_norm)(x), direction), numeric, rtol=1e-7)


def test_train_maps_over_a_further_axis():
    augment = Augmentation(crop_padding=1, flip=True, mean=(0.5,), std=(0.5,))
    images = jnp.asarray(pixels((3, 4, 6, 6, 1), np.float32))
    keys = jax.random.split(jax.random.key(0), 3)

    def total(images):
        return jnp.sum(jax.vmap(augment.train)(keys, images) ** 2)

    mapped = jax.vmap(augment.train)(keys, images)
    for one, key, batch in zip(mapped, keys, images, strict=True):
        np.testing.assert_allclose(one, augment.train(key, batch), rtol=1e-6)
    assert jax.grad(total)(images).shape == images.shape


def test_weights_are_learned_through_augmented_uint8_batches():
    """The training step differentiates with respect to the weights while the pixels are integers."""
    augment = Augmentation(crop_padding=1, flip=True, mean=(0.5,), std=(0.25,))
    batches = jnp.asarray(pixels((3, 4, 6, 6, 1)))
    keys = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    def loss(weight):
        def step(total, batch):
            return total + jnp.mean(weight * augment.train(*batch)), None

        return jax.lax.scan(step, jnp.zeros(()), (keys, batches))[0]

    expected = sum(np.mean(augment.train(key, batch)) for key, batch in zip(keys, batches, strict=True))
    np.testing.assert_allclose(jax.grad(loss)(2.0), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "scale", "result"),
    [
        (np.uint8, 255, np.float32),
        (np.float32, 1, np.float32),
        (np.float16, 1, np.float16),
        (np.float64, 1, np.float64),
    ],
)
def test_normalise_standardises_and_keeps_the_float_dtype(dtype, scale, result):
    images = pixels((4, 3, 5, 2), dtype)
    mean, std = (0.3, 0.6), (0.2, 0.4)
    with jax.enable_x64(True):
        normalised = normalise(jnp.asarray(images), mean, std)
    assert normalised.dtype == result
    expected = np.stack([(images[..., c].astype(np.float64) / scale - mean[c]) / std[c] for c in (0, 1)], axis=-1)
    np.testing.assert_allclose(normalised, expected, atol={np.float16: 1e-2, np.float64: 1e-14}.get(result, 1e-5))


def test_the_edge_a_crop_brings_in_is_a_black_pixel():
    augment = Augmentation(crop_padding=2, flip=False, mean=(0.5,), std=(0.25,))
    white = np.full((64, 6, 6, 1), 255, np.uint8)
    values = np.unique(augment.train(jax.random.key(0), jnp.asarray(white)))
    np.testing.assert_allclose(values, [-2, 2])


def test_nothing_is_mirrored_without_flip_and_nothing_is_moved_without_padding():
    images = pixels((200, 5, 5, 1))
    plain = np.asarray(normalise(images, (0.5,), (0.25,)))
    key = jax.random.key(0)
    off = Augmentation(0, False, (0.5,), (0.25,))
    np.testing.assert_array_equal(off.train(key, images), plain)
    np.testing.assert_array_equal(off.evaluate(images), plain)
    flips = np.asarray(Augmentation(0, True, (0.5,), (0.25,)).train(key, images))
    assert all(np.array_equal(f, p) or np.array_equal(f, p[:, ::-1]) for f, p in zip(flips, plain, strict=True))
    offsets_of(images, np.rint((np.asarray(Augmentation(1, False, (0.0,), (1.0,)).train(key, images))) * 255), 1)


def test_every_crop_meets_both_orientations():
    images = np.repeat(pixels((1, 5, 5, 1)), 400, axis=0)
    both = np.rint(np.asarray(Augmentation(1, True, (0.0,), (1.0,)).train(jax.random.key(0), images)) * 255)
    # All 18 combinations of nine crops and two orientations turn up.
    assert len(np.unique(both, axis=0)) == 18


def one_colour_dataset(height, width):
    images = np.zeros((4, height, width, 3), np.uint8)
    images[2:] = (255, 51, 0)
    labels = np.array([0, 1, 0, 1], np.int32)
    return make_dataset("squares", (images, labels), (images, labels), ("a", "b"))


def test_augmentation_takes_its_constants_from_config_and_data_and_is_hashable():
    config = DataConfig(crop_padding=3, flip=False)
    built = augmentation(config, one_colour_dataset(8, 8))
    assert (built.crop_padding, built.flip) == (3, False)
    np.testing.assert_allclose(built.mean, (0.5, 0.1, 0.0), atol=1e-12)
    np.testing.assert_allclose(built.std, (0.5, 0.1, 1e-3), atol=1e-12)
    assert hash(built) == hash(augmentation(config, one_colour_dataset(8, 8)))


def test_padding_as_wide_as_the_image_is_refused():
    with pytest.raises(UserError, match=r"--data.crop-padding 4 .* 4 pixels"):
        augmentation(DataConfig(crop_padding=4), one_colour_dataset(8, 4))
