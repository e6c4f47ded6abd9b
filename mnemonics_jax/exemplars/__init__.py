"""Exemplar kinds: one file and one line in the registry for each."""

from mnemonics_jax.exemplars.base import ExemplarStrategy
from mnemonics_jax.exemplars.gradient_matching import GradientMatching
from mnemonics_jax.exemplars.herding import Herding
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.random import Random
from mnemonics_jax.runtime.errors import check_new, unknown_name

EXEMPLARS: dict[str, type[ExemplarStrategy]] = {cls.name: cls for cls in (Random, Herding, GradientMatching, Mnemonics)}


def register_exemplars(cls: type[ExemplarStrategy]) -> type[ExemplarStrategy]:
    """Add an exemplar kind to the registry under its `name`; a class decorator.

    Raises:
        UserError: when the name is taken.
    """
    check_new("an exemplar kind", cls.name, EXEMPLARS)
    EXEMPLARS[cls.name] = cls
    return cls


def exemplar_class(name: str) -> type[ExemplarStrategy]:
    """Return the exemplar kind of that name.

    Raises:
        UserError: when there is none; it tells similar names.
    """
    if name not in EXEMPLARS:
        raise unknown_name("exemplar kind", name, EXEMPLARS)
    return EXEMPLARS[name]


__all__ = ["EXEMPLARS", "ExemplarStrategy", "exemplar_class", "register_exemplars"]
