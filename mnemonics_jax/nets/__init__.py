"""Networks: backbones, heads, and the classifiers made of them.

Each name but `NetConfig` is imported at its first use: settings are read before JAX is loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mnemonics_jax.nets.config import NetConfig

if TYPE_CHECKING:
    from mnemonics_jax.nets.classifier import (
        SCOPES,
        Classifier,
        Variables,
        apply,
        apply_head,
        apply_train,
        init,
        reset_head,
        scope_of,
    )
    from mnemonics_jax.nets.convnet import ConvNet
    from mnemonics_jax.nets.heads import CosineHead, LinearHead
    from mnemonics_jax.nets.networks import NETWORKS, build
    from mnemonics_jax.nets.outputs import Outputs, mask_logits, normalize
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

_MODULES = {
    "classifier": (
        *("SCOPES", "Classifier", "Variables", "apply", "apply_head", "apply_train", "init", "reset_head", "scope_of"),
    ),
    "convnet": ("ConvNet",),
    "heads": ("CosineHead", "LinearHead"),
    "networks": ("NETWORKS", "build"),
    "outputs": ("Outputs", "mask_logits", "normalize"),
    "resnet": ("ResNet",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Return a public name, imported at its first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'mnemonics_jax.nets' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mnemonics_jax.nets.{_HOME[name]}"), name)
    globals()[name] = value
    return value
