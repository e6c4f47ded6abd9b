"""A run's whole configuration: frozen dataclasses, presets by name, validation, and the form they have on disk."""

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.errors import UserError, unknown_name
from mnemonics_jax.exemplars import Exemplars, exemplar_class
from mnemonics_jax.methods import Method, method_class
from mnemonics_jax.nets import NetConfig
from mnemonics_jax.stream import StreamConfig
from mnemonics_jax.training import TrainConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes."""

    preset: str
    data: DataConfig
    stream: StreamConfig
    net: NetConfig
    train: TrainConfig
    method: Method
    exemplars: Exemplars
    seed: int = 0
    """Seed of everything random in the run, the class order included."""

    def validate(self) -> None:
        """Raises `UserError` for the first setting out of range that can be told without the data."""
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: must not be negative")
        for part in (self.data, self.train, self.method, self.exemplars):
            part.validate()

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values for config.json, the method and the exemplar kind with their names."""
        named = {"method": self.method.name, "exemplars": self.exemplars.name}
        plain = dataclasses.asdict(self)
        return {k: {"name": named[k], **v} if k in named else v for k, v in plain.items()}


@dataclass(frozen=True)
class Preset:
    """A named starting point.

    `exemplars` overrides the defaults of whichever exemplar kind is chosen, `methods` those of the methods it names.
    """

    summary: str
    data: DataConfig
    net: NetConfig
    train: TrainConfig
    exemplars: dict[str, Any]
    method: str = "icarl"
    methods: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


# The settings of the literature for ResNet-18 at 224×224. A chunk of four batches is 77 MB of pixels; exemplars are
# learned and fitted in batches, since 20 of each of 1000 classes are too many for one step.
_IMAGENET: dict[str, Any] = {
    "net": NetConfig(name="resnet18"),
    "train": TrainConfig(epochs=90, milestones=(1 / 3, 2 / 3), weight_decay=1e-4, chunk_steps=4),
    "exemplars": {"inner_batch": 64, "outer_batch": 64, "outer_chunk": 5},
    "method": "lucir",
    "methods": {"lucir": {"lambda_base": 10.0}},
}


def _imagenet_data(source: str) -> DataConfig:
    return DataConfig(source=source, image_size=224, stream=True, crop_padding=0, resized_crop=True)


# Chosen by measurement on small networks (experiments/RESULTS.md): the inner problem in closed form, and an anchor, let
# learned exemplars stay ahead of herding in later phases; pixels that move farther gain at first and lose then.
_LEARNING: dict[str, Any] = {
    "inner_init": "class_means",
    "inner_scope": "head",
    "unroll_length": 0,
    "outer_steps": 200,
    "outer_batch": 64,
    "anchor": 20.0,
    "change_cap": 0.05,
}

# An inner loop on the head alone passes each exemplar through the network once in an outer step, not T times, so T can
# be long. It has to be: a head that T steps leave half-trained makes exemplars learn to be large rather than right.
_LONG_LOOP: dict[str, Any] = {"inner_scope": "head", "unroll_length": 50, "outer_learning_rate": 0.005}

# A small network on small pictures. Later phases take short steps, so that less is forgotten.
_SMALL: dict[str, Any] = {
    "net": NetConfig(name="convnet", widths=(32, 64, 128)),
    "train": TrainConfig(epochs=20, batch_size=64, learning_rate=0.05, later_epochs=10, later_learning_rate=0.005),
    "exemplars": _LEARNING,
    "methods": {name: {"distillation_weight": 1.0} for name in ("lwf", "icarl")},
}

PRESETS = {
    "cifar100": Preset(
        summary="CIFAR-100 with ResNet-32 as in the paper, prepared by TensorFlow Datasets",
        data=DataConfig(source="cifar100"),
        net=NetConfig(name="resnet32"),
        train=TrainConfig(),
        exemplars={},
        method="lucir",
    ),
    "imagenet-subset": Preset(
        summary="100 classes of ImageNet with ResNet-18 as in the paper, prepared by TensorFlow Datasets",
        data=_imagenet_data("imagenet-subset"),
        **_IMAGENET,
    ),
    "imagenet": Preset(
        summary="ImageNet with ResNet-18 as in the paper, prepared by TensorFlow Datasets",
        data=_imagenet_data("imagenet2012"),
        **_IMAGENET,
    ),
    "digits": Preset(
        summary="scikit-learn's 8×8 handwritten digits, 10 classes; needs no download",
        data=DataConfig(source="digits", crop_padding=1, flip=False),
        net=NetConfig(name="convnet", widths=(32, 64)),
        train=TrainConfig(epochs=30, batch_size=64, learning_rate=0.05),
        exemplars={**_LONG_LOOP, "per_class": 5},
    ),
    "images": Preset(
        summary="your own small pictures in folders (--data.path DIR), a small network for a CPU",
        data=DataConfig(source="folder"),
        **_SMALL,
    ),
    "images-resnet32": Preset(
        summary="your own 32×32 pictures in folders with the networks and settings of CIFAR-100",
        data=DataConfig(source="folder"),
        net=NetConfig(name="resnet32"),
        train=TrainConfig(),
        exemplars={},
    ),
    "npz": Preset(
        summary="your own arrays in a .npz file (--data.path FILE), a small network for a CPU",
        data=DataConfig(source="npz"),
        **_SMALL,
    ),
}


def make_config(preset: str, method: str | None = None, exemplars: str = "mnemonics") -> Config:
    """The configuration of a preset. Raises `UserError` for an unknown name, with the near matches."""
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    chosen = PRESETS[preset]
    method = method or chosen.method
    return Config(
        preset=preset,
        data=chosen.data,
        stream=StreamConfig(),
        net=chosen.net,
        train=chosen.train,
        method=fill(method_class(method), chosen.methods.get(method, {})),
        exemplars=fill(exemplar_class(exemplars), chosen.exemplars),
    )


def fill(kind: type[T], values: dict[str, Any]) -> T:
    """A method or an exemplar kind with those of `values` that it has a field for."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})


def flatten(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain values by dotted name, as `exemplars.unroll_length`."""
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted names whose values differ, with both values (None where a side lacks the field)."""
    a, b = flatten(one), flatten(other)
    return {name: (a.get(name), b.get(name)) for name in sorted(a | b) if a.get(name) != b.get(name)}
