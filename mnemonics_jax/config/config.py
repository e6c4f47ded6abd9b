"""A run's whole configuration: nested frozen dataclasses, their validation, and their form as plain values."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from annotated_types import Ge, Lt

from mnemonics_jax.config.train import TrainConfig
from mnemonics_jax.data.class_stream import StreamConfig
from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.exemplars import ExemplarStrategy
from mnemonics_jax.methods import Method
from mnemonics_jax.nets import NetConfig
from mnemonics_jax.runtime.settings import check_ranges


@dataclass(frozen=True)
class Config:
    """All settings that determine the result of a run."""

    preset: tyro.conf.Suppress[str]
    data: DataConfig
    stream: StreamConfig
    net: NetConfig
    train: TrainConfig
    method: Method
    exemplars: ExemplarStrategy
    recipe: str = "default"
    """Recipe that the settings start from, as the preset: default, chosen by measurement on small networks, or paper,
    as close to the publication as its text goes."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Seed of everything random in the run. It also selects the class order, unless stream.order_seed is given."""

    def validate(self) -> None:
        """Check everything that can be checked without the data.

        Raises:
            UserError: for the first setting that is out of range or contradicts another.
        """
        check_ranges(self)
        for part in (self.data, self.train, self.method, self.exemplars):
            part.validate()

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values for config.json; the method and the exemplar kind include their names."""
        named = {"method": self.method.name, "exemplars": self.exemplars.name}
        plain = dataclasses.asdict(self)
        return {k: {"name": named[k], **v} if k in named else v for k, v in plain.items()}


def flatten(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested plain values by dotted name, such as `exemplars.unroll_length`."""
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted names whose values differ, with both values (None if a side lacks the field)."""
    a, b = flatten(one), flatten(other)
    return {name: (a.get(name), b.get(name)) for name in sorted(a | b) if a.get(name) != b.get(name)}
