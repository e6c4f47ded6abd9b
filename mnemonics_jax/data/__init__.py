"""Data sources by name. To add a source, add one file and one line in `SOURCES`."""

from collections.abc import Callable
from pkgutil import resolve_name

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset
from mnemonics_jax.data.packing import pack_dataset
from mnemonics_jax.runtime.errors import unknown_name
from mnemonics_jax.runtime.settings import check_ranges

SOURCES = {
    "digits": "digits:load_digits",
    "folder": "image_folder:load_image_folder",
    "npz": "npz:load_npz",
    "cifar10": "cifar:load_cifar",
    "cifar100": "cifar:load_cifar",
    "tiny-imagenet": "tiny_imagenet:load_tiny_imagenet",
    "tfds-cifar10": "tfds:load_tfds",
    "tfds-cifar100": "tfds:load_tfds",
    "imagenet2012": "tfds:load_tfds",
    "imagenet-subset": "tfds:load_tfds",
}
"""Module and function of each source; the module is imported when its data is loaded.

Each source returns only the classes that the config selects. The folder source decodes no image of other classes.
"""

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
    dataset = resolve_name(f"{__name__}.{SOURCES[config.source]}")(config)
    return pack_dataset(dataset) if config.storage == "packed" else dataset
