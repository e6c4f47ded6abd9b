"""What the data set itself and the bundled digits deliver, and what is said about settings that cannot work."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mnemonics_jax.data import DataConfig, load
from mnemonics_jax.data.dataset import make_dataset, take_classes
from mnemonics_jax.runtime.errors import UserError

# Digits


def test_digits_are_the_bundled_images_split_four_to_one_in_every_class():
    data = load(DataConfig())
    bundled = load_digits()
    assert data.image_shape == (8, 8, 1)
    assert data.class_names == tuple("0123456789")

    def pairs(images, labels):
        return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))

    both = np.concatenate([data.train_images, data.test_images])
    assert (both.dtype, both.min(), both.max()) == (np.uint8, 0, 255)
    recovered = np.rint(both[..., 0] / 255 * 16).astype(np.uint8)
    labels = np.concatenate([data.train_labels, data.test_labels])
    assert pairs(recovered, labels) == pairs(bundled.images.astype(np.uint8), bundled.target)
    share = np.bincount(data.test_labels) / np.bincount(bundled.target)
    np.testing.assert_allclose(share, 0.2, atol=0.003)


def test_digits_are_split_the_same_way_every_time():
    first, second = load(DataConfig()), load(DataConfig())
    np.testing.assert_array_equal(first.train_images, second.train_images)
    np.testing.assert_array_equal(first.test_images, second.test_images)


def test_digits_restricted_to_some_classes():
    whole, part = load(DataConfig()), load(DataConfig(first_class=3, num_classes=4))
    assert part.class_names == ("3", "4", "5", "6")
    np.testing.assert_array_equal(
        part.train_images[part.train_labels == 1], whole.train_images[whole.train_labels == 4]
    )
    np.testing.assert_array_equal(part.train_counts(), whole.train_counts()[3:7])


# The data set itself


def test_statistics_are_those_of_the_training_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 50, 40, 3)).astype(np.uint8)
    images[..., 1] //= 3
    images[..., 2] = 7
    labels = np.arange(600, dtype=np.int32) % 2
    data = make_dataset("noise", (images, labels), (images[:2], labels[:2]), ("a", "b"))
    flat = images.reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, flat.mean(0), rtol=1e-10)
    np.testing.assert_allclose(data.std, [*flat.std(0)[:2], 1e-3], rtol=1e-10)


def test_a_class_without_test_images_is_refused():
    images, labels = np.zeros((4, 4, 4, 1), np.uint8), np.array([0, 1, 2, 2], np.int32)
    with pytest.raises(UserError, match="no test images for class dog"):
        make_dataset("pets", (images, labels), (images[:3], labels[:3] % 2), ("cat", "cow", "dog"))


@pytest.mark.parametrize(
    ("first", "count"), [(0, 11), (8, 3), (9, None), (10, None), (15, None), (-1, 3), (0, 1), (0, -2)]
)
def test_classes_that_do_not_exist_are_refused(first, count):
    data = load(DataConfig())
    with pytest.raises(UserError, match="digits has 10 classes"):
        take_classes(data, first, count)


# Settings


@pytest.mark.parametrize("source", ["folder", "npz"])
@pytest.mark.parametrize("path", ["x" * 300, "~nobody-here/x", "nul\0byte"])
def test_paths_no_file_can_have_are_explained(source, path):
    with pytest.raises(UserError, match="does not exist"):
        load(DataConfig(source=source, path=path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "folders"}, "unknown data source 'folders': did you mean 'folder'"),
        ({"source": "folder"}, "--data.path"),
        ({"source": "npz"}, "--data.path"),
        ({"path": "somewhere"}, "reads no path"),
        ({"image_size": 16}, "--data.image-size 16"),
        ({"source": "npz", "path": "a.npz", "image_size": 16}, "--data.image-size 16"),
        ({"source": "folder", "path": "a", "image_size": 3}, "--data.image-size 3: has to be at least 4"),
        ({"first_class": -1}, "--data.first-class -1: has to be at least 0"),
        ({"num_classes": 1}, "--data.num-classes 1: has to be at least 2"),
        ({"crop_padding": -1}, "--data.crop-padding -1: has to be at least 0"),
    ],
)
def test_contradictory_settings_are_explained(settings, message):
    with pytest.raises(UserError) as caught:
        load(DataConfig(**settings))
    assert message in str(caught.value)
