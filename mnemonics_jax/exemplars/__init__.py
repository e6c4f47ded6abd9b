"""Exemplar kinds: one file each, one line in the registry."""

from mnemonics_jax.errors import check_new, unknown_name
from mnemonics_jax.exemplars.base import Exemplars
from mnemonics_jax.exemplars.herding import Herding
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.random import Random

EXEMPLARS: dict[str, type[Exemplars]] = {cls.name: cls for cls in (Random, Herding, Mnemonics)}


def register_exemplars(cls: type[Exemplars]) -> type[Exemplars]:
    """Adds an exemplar kind under its `name`; a class decorator. Raises `UserError` when the name is taken."""
    check_new("an exemplar kind", cls.name, EXEMPLARS)
    EXEMPLARS[cls.name] = cls
    return cls


def exemplar_class(name: str) -> type[Exemplars]:
    """The exemplar kind of that name. Raises `UserError` with the near matches when there is none."""
    if name not in EXEMPLARS:
        raise unknown_name("exemplar kind", name, EXEMPLARS)
    return EXEMPLARS[name]


__all__ = ["EXEMPLARS", "Exemplars", "exemplar_class", "register_exemplars"]
