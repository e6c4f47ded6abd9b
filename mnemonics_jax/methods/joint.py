"""The upper bound: every phase trains on all data so far."""

from dataclasses import dataclass
from typing import ClassVar

from mnemonics_jax.methods.finetune import Finetune


@dataclass(frozen=True)
class Joint(Finetune):
    """Cross-entropy on D_0 ∪ … ∪ D_i: what a method without any memory limit reaches."""

    name: ClassVar[str] = "joint"
    sees_all_data: ClassVar[bool] = True
