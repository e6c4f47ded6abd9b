"""Class-incremental methods: one file and one line in the registry for each."""

from mnemonics_jax.methods.base import Classes, LogitCorrection, LossInputs, Method
from mnemonics_jax.methods.bic import BiC
from mnemonics_jax.methods.bounds import Finetune, Joint
from mnemonics_jax.methods.icarl import ICaRL
from mnemonics_jax.methods.lucir import LUCIR
from mnemonics_jax.methods.lwf import LwF
from mnemonics_jax.runtime.errors import check_new, unknown_name

METHODS: dict[str, type[Method]] = {cls.name: cls for cls in (LwF, ICaRL, BiC, LUCIR, Finetune, Joint)}


def register_method(cls: type[Method]) -> type[Method]:
    """Add a method to the registry under its `name`; a class decorator.

    Raises:
        UserError: when the name is taken.
    """
    check_new("a method", cls.name, METHODS)
    METHODS[cls.name] = cls
    return cls


def method_class(name: str) -> type[Method]:
    """Return the method of that name.

    Raises:
        UserError: when there is none; it tells similar names.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


__all__ = ["METHODS", "Classes", "LogitCorrection", "LossInputs", "Method", "method_class", "register_method"]
