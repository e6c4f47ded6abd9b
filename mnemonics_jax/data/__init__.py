"""Data sources by name. A source is added by adding one file and one line to `SOURCES`."""

from collections.abc import Callable

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset
from mnemonics_jax.data.digits import load_digits
from mnemonics_jax.data.image_folder import load_image_folder
from mnemonics_jax.data.npz import load_npz
from mnemonics_jax.data.tfds import load_tfds
from mnemonics_jax.errors import unknown_name

# Each source delivers the classes that the config selects: a folder decodes no image of the others.
SOURCES: dict[str, Callable[[DataConfig], Dataset]] = {
    "digits": load_digits,
    "folder": load_image_folder,
    "npz": load_npz,
    "cifar100": load_tfds,
    "imagenet2012": load_tfds,
    "imagenet-subset": load_tfds,
}

Load = Callable[[DataConfig], Dataset]
"""What delivers a data set: `load`, or something that remembers what it has loaded."""


def load(config: DataConfig) -> Dataset:
    """The data set that `config` describes, restricted to the classes it selects.

    Raises `UserError` for an unknown source, for settings that contradict each other and for unusable data.
    """
    if config.source not in SOURCES:
        raise unknown_name("data source", config.source, SOURCES)
    config.validate()
    return SOURCES[config.source](config)
