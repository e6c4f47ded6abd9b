"""Exemplar kinds: one file each, one line in the registry."""

from mnemonics_jax.errors import unknown_name
from mnemonics_jax.exemplars.base import Exemplars
from mnemonics_jax.exemplars.herding import Herding
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.random import Random

EXEMPLARS: dict[str, type[Exemplars]] = {cls.name: cls for cls in (Random, Herding, Mnemonics)}


def exemplar_class(name: str) -> type[Exemplars]:
    """The exemplar kind of that name. Raises `UserError` with the near matches when there is none."""
    if name not in EXEMPLARS:
        raise unknown_name("exemplar kind", name, EXEMPLARS)
    return EXEMPLARS[name]


__all__ = ["EXEMPLARS", "Exemplars", "exemplar_class"]
