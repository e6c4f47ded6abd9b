"""Networks: backbones, heads, and the classifiers made of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax

from mnemonics_jax import errors
from mnemonics_jax.nets.classifier import (
    SCOPES,
    Classifier,
    Outputs,
    Variables,
    apply,
    apply_head,
    apply_train,
    init,
    reset_head,
    scope_of,
)
from mnemonics_jax.nets.convnet import ConvNet
from mnemonics_jax.nets.heads import CosineHead, LinearHead, mask_logits, normalize
from mnemonics_jax.nets.resnet import ResNet

__all__ = [
    "NETWORKS",
    "SCOPES",
    "Classifier",
    "ConvNet",
    "CosineHead",
    "LinearHead",
    "NetConfig",
    "Outputs",
    "ResNet",
    "Variables",
    "apply",
    "apply_head",
    "apply_train",
    "build",
    "init",
    "mask_logits",
    "normalize",
    "reset_head",
    "scope_of",
]


@dataclass(frozen=True)
class NetConfig:
    """Which network learns."""

    name: str = "convnet"
    """convnet: one convolution in each stage, for small images; resnet32: the CIFAR ResNet of 32 layers; resnet18: the
    ImageNet ResNet of 18 layers."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage; convnet only."""
    weight_transfer: bool = False
    """Weight transfer ("mtl"): from phase 1 on the convolution kernels are frozen, and scales of their filters and
    shifts of their outputs are learned instead."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """What the backbone computes in; parameters, losses and the meta-gradient's sums are never narrower than float32.
    auto: bfloat16 on GPU and TPU, else float32. float64 is for comparisons and needs JAX_ENABLE_X64=1."""


NETWORKS: Mapping[str, Callable[[NetConfig, bool], nn.Module]] = {
    "convnet": lambda config, last_relu: ConvNet(tuple(config.widths), last_relu, config.weight_transfer),
    "resnet32": lambda config, last_relu: ResNet(last_relu=last_relu, transfer=config.weight_transfer),
    "resnet18": lambda config, last_relu: ResNet(
        2, (64, 128, 256, 512), large_stem=True, last_relu=last_relu, transfer=config.weight_transfer
    ),
}
"""Backbones by name, each from (config, whether it ends in a ReLU)."""

_HEADS = {"linear": LinearHead, "cosine": CosineHead}


def build(config: NetConfig, num_classes: int, head: Literal["linear", "cosine"]) -> Classifier:
    """The classifier a config names; its backbone ends in a ReLU only under a linear head.

    Raises:
        UserError: if the network is unknown, its widths are not positive, or float64 is asked for but switched off.
    """
    if config.name not in NETWORKS:
        raise errors.unknown_name("network", config.name, NETWORKS)
    if not config.widths or min(config.widths) < 1:
        raise errors.UserError(f"network widths {config.widths}: give one positive number for each stage")
    if config.precision == "float64" and not jax.config.jax_enable_x64:
        raise errors.UserError("--net.precision float64 needs the environment variable JAX_ENABLE_X64=1")
    backbone = NETWORKS[config.name](config, head == "linear")
    return Classifier(backbone, _HEADS[head](num_classes), _compute_dtype(config))


def _compute_dtype(config: NetConfig) -> str | None:
    """None for float32, which is what images come in."""
    narrow = config.precision == "auto" and jax.default_backend() in ("gpu", "tpu")
    chosen = "bfloat16" if narrow else config.precision
    return chosen if chosen in ("bfloat16", "float64") else None
