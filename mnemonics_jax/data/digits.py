"""The 8x8 handwritten digits that scikit-learn carries: 1,797 images, ten classes, no download."""

import numpy as np

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset, make_dataset, take_classes

_TEST_FRACTION = 0.2
_SPLIT_SEED = 0


def load_digits(config: DataConfig) -> Dataset:
    """Return the digits as uint8 [n, 8, 8, 1], with a fifth of each class as test images.

    The split is always the same.

    Raises:
        UserError: if `config` selects classes that do not exist.
    """
    # Imported here because the import takes a second, which users of other data sources should not wait for.
    from sklearn.datasets import load_digits as load_bundled

    bundled = load_bundled()
    images = np.rint(bundled.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bundled.target.astype(np.int32)
    # NumPy never changes the stream of its legacy generator, so the split is the same in every NumPy version.
    rng = np.random.RandomState(_SPLIT_SEED)
    is_test = np.zeros(len(labels), bool)
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        is_test[members[: round(_TEST_FRACTION * len(members))]] = True
    dataset = make_dataset(
        "digits",
        (images[~is_test], labels[~is_test]),
        (images[is_test], labels[is_test]),
        tuple(str(digit) for digit in range(10)),
    )
    return take_classes(dataset, config.first_class, config.num_classes)
