"""Class-incremental methods: one file each, one line in the registry."""

from mnemonics_jax.errors import check_new, unknown_name
from mnemonics_jax.methods.base import Bias, Classes, LossInputs, Method
from mnemonics_jax.methods.bic import BiC
from mnemonics_jax.methods.finetune import Finetune
from mnemonics_jax.methods.icarl import ICaRL
from mnemonics_jax.methods.joint import Joint
from mnemonics_jax.methods.lucir import LUCIR
from mnemonics_jax.methods.lwf import LwF

METHODS: dict[str, type[Method]] = {cls.name: cls for cls in (LwF, ICaRL, BiC, LUCIR, Finetune, Joint)}


def register_method(cls: type[Method]) -> type[Method]:
    """Adds a method under its `name`; a class decorator. Raises `UserError` when the name is taken."""
    check_new("a method", cls.name, METHODS)
    METHODS[cls.name] = cls
    return cls


def method_class(name: str) -> type[Method]:
    """The method of that name. Raises `UserError` with the near matches when there is none."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


__all__ = ["METHODS", "Bias", "Classes", "LossInputs", "Method", "method_class", "register_method"]
