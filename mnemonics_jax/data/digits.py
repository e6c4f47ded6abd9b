"""The 8x8 handwritten digits that scikit-learn carries: 1,797 images, ten classes, no download."""

import numpy as np

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset, make_dataset, take_classes

_TEST_FRACTION = 0.2
_SPLIT_SEED = 0


def load_digits(config: DataConfig) -> Dataset:
    """The digits as uint8 [n, 8, 8, 1], a fifth of each class set apart for testing; the split is always the same.

    Raises `UserError` when `config` selects classes beyond the ten.
    """
    # Imported here because scikit-learn takes a second to import, which every other data source would pay as well.
    from sklearn.datasets import load_digits as load_bundled

    bundled = load_bundled()
    images = np.rint(bundled.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bundled.target.astype(np.int32)
    # The legacy generator's stream is frozen, so the split does not move with the NumPy version.
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
