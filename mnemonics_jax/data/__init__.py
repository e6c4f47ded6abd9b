"""Data sources by name. To add a source, add one file and one line in `SOURCES`."""

from collections.abc import Callable

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset
from mnemonics_jax.data.digits import load_digits
from mnemonics_jax.data.image_folder import load_image_folder
from mnemonics_jax.data.npz import load_npz
from mnemonics_jax.data.packing import pack_dataset
from mnemonics_jax.data.tfds import load_tfds
from mnemonics_jax.runtime.errors import unknown_name
from mnemonics_jax.runtime.settings import check_ranges

# Each source returns only the classes that the config selects. The folder source decodes no image of other classes.
SOURCES: dict[str, Callable[[DataConfig], Dataset]] = {
    "digits": load_digits,
    "folder": load_image_folder,
    "npz": load_npz,
    "cifar100": load_tfds,
    "imagenet2012": load_tfds,
    "imagenet-subset": load_tfds,
}

Load = Callable[[DataConfig], Dataset]
"""A function that delivers a data set: `load`, or one that remembers what it has loaded."""


def load(config: DataConfig) -> Dataset:
    """Return the data set that `config` describes, restricted to the classes it selects.

    Raises:
        UserError: if the source is unknown, if settings contradict each other, or if the data cannot be used.
    """
    if config.source not in SOURCES:
        raise unknown_name("data source", config.source, SOURCES)
    check_ranges(config, "data.")
    config.validate()
    dataset = SOURCES[config.source](config)
    return pack_dataset(dataset) if config.storage == "packed" else dataset
