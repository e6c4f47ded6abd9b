"""Presets: named starting points of a configuration."""

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from mnemonics_jax.config.config import Config
from mnemonics_jax.config.train import TrainConfig
from mnemonics_jax.data.class_stream import StreamConfig
from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.exemplars import exemplar_class
from mnemonics_jax.methods import method_class
from mnemonics_jax.nets import NetConfig
from mnemonics_jax.runtime.errors import unknown_name

T = TypeVar("T")


@dataclass(frozen=True)
class Preset:
    """A named starting point.

    `exemplars` replaces defaults of the chosen exemplar kind, `methods` defaults of the methods that it names.
    """

    summary: str
    data: DataConfig
    net: NetConfig
    train: TrainConfig
    exemplars: dict[str, Any]
    method: str = "icarl"
    methods: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


# The settings of the literature for ResNet-18 at 224×224. A chunk of four batches has 77 MB of pixels. Inner and outer
# steps use batches of exemplars, because 20 exemplars of each of 1000 classes are too many for one step.
_IMAGENET: dict[str, Any] = {
    "net": NetConfig(name="resnet18"),
    "train": TrainConfig(epochs=90, milestones=(1 / 3, 2 / 3), weight_decay=1e-4, chunk_steps=4),
    "exemplars": {"inner_batch": 64, "outer_batch": 64, "outer_chunk": 5},
    "method": "lucir",
    "methods": {"lucir": {"lambda_base": 10.0}},
}


def _imagenet_data(source: str) -> DataConfig:
    return DataConfig(source=source, image_size=224, stream=True, crop_padding=0, resized_crop=True)


# Chosen by measurement on small networks (experiments/RESULTS.md). With the inner problem in closed form and an anchor,
# learned exemplars stay ahead of herding in later phases. Pixels that move farther gain at first, but lose later.
_LEARNING: dict[str, Any] = {
    "inner_init": "class_means",
    "inner_scope": "head",
    "unroll_length": 0,
    "outer_steps": 200,
    "outer_batch": 64,
    "anchor": 20.0,
    "change_cap": 0.05,
}


# If the inner loop trains only the head, each exemplar passes the network once in an outer step and not T times, so a
# long unroll length T is cheap. It is also necessary: if T steps leave the head half-trained, exemplars learn to have
# large features instead of the right ones.
_LONG_LOOP: dict[str, Any] = {"inner_scope": "head", "unroll_length": 50, "outer_learning_rate": 0.005}


# A small network on small images. Later phases use a small learning rate, so that less is forgotten.
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
        summary="your own small images in folders (--data.path DIR), a small network for a CPU",
        data=DataConfig(source="folder"),
        **_SMALL,
    ),
    "images-resnet32": Preset(
        summary="your own 32×32 images in folders with the networks and settings of CIFAR-100",
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
    """Return the configuration of a preset.

    Args:
        preset: one of `PRESETS`.
        method: a method's name; None for the method of the preset.
        exemplars: an exemplar kind's name.

    Raises:
        UserError: if a name is unknown; the message names similar ones.
    """
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
    """Return a method or an exemplar kind with those of `values` for which it has a field."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})
