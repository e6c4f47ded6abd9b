"""Backbones by name, and the classifier that a configuration describes."""

from collections.abc import Callable, Mapping
from typing import Literal

import flax.linen as nn
import jax

from mnemonics_jax.nets.classifier import Classifier
from mnemonics_jax.nets.config import NetConfig
from mnemonics_jax.nets.convnet import ConvNet
from mnemonics_jax.nets.heads import CosineHead, LinearHead
from mnemonics_jax.nets.resnet import ResNet
from mnemonics_jax.runtime import errors

NETWORKS: Mapping[str, Callable[[NetConfig, bool], nn.Module]] = {
    "convnet": lambda config, last_relu: ConvNet(tuple(config.widths), last_relu, config.weight_transfer),
    "resnet32": lambda config, last_relu: ResNet(last_relu=last_relu, transfer=config.weight_transfer),
    "resnet18": lambda config, last_relu: ResNet(
        2, (64, 128, 256, 512), large_stem=True, last_relu=last_relu, transfer=config.weight_transfer
    ),
}
"""Constructors of backbones by name; their arguments are the config and whether the backbone ends in a ReLU."""

_HEADS = {"linear": LinearHead, "cosine": CosineHead}


def build(config: NetConfig, num_classes: int, head: Literal["linear", "cosine"]) -> Classifier:
    """Return the classifier that `config` names. Its backbone ends in a ReLU only under a linear head.

    Raises:
        UserError: if the network is unknown, or if float64 is asked for but JAX has it switched off.
    """
    if config.name not in NETWORKS:
        raise errors.unknown_name("network", config.name, NETWORKS)
    if config.precision == "float64" and not jax.config.jax_enable_x64:
        raise errors.UserError(
            "--net.precision float64 is switched off in JAX: set the environment variable JAX_ENABLE_X64=1"
        )
    backbone = NETWORKS[config.name](config, head == "linear")
    return Classifier(backbone, _HEADS[head](num_classes), _compute_dtype(config))


def _compute_dtype(config: NetConfig) -> str | None:
    """Return the backbone's dtype; None for float32, the dtype of the images."""
    narrow = config.precision == "auto" and jax.default_backend() in ("gpu", "tpu")
    chosen = "bfloat16" if narrow else config.precision
    return chosen if chosen in ("bfloat16", "float64") else None
