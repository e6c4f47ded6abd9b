"""Networks: backbones, heads, and the classifiers made of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import flax.linen as nn
import jax
from annotated_types import Ge, MinLen

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
from mnemonics_jax.runtime import errors

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
    """The network: backbone, weight transfer and precision."""

    name: str = "convnet"
    """Backbone. convnet: one convolution per stage, for small images; resnet32: the CIFAR ResNet with 32 layers;
    resnet18: the ImageNet ResNet with 18 layers.
    """
    widths: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (32, 64, 128)
    """Number of channels of each stage. Used by convnet only."""
    weight_transfer: bool = False
    """Weight transfer ("mtl"): from phase 1 on, freeze the convolution kernels and learn a scale of each filter
    instead. Batch normalisation, whose bias is the shift behind each convolution, is trained as before.
    """
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Dtype of the backbone's computation. Parameters, losses and the sums of the meta-gradient always have at least
    float32. auto: bfloat16 on GPU and TPU, otherwise float32. float64 is for comparisons and needs JAX_ENABLE_X64=1.
    """


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
