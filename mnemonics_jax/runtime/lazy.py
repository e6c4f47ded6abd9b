"""JAX and optax for modules that describe settings: imported at their first use, not when such a module is.

The command line reads all settings before it loads JAX, so that help and mistakes are there at once. A module that
declares settings therefore takes `jax`, `jnp`, `optax` and `Array` from here. It must not use them while it is being
imported, as a decorator `@jax.jit` would.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax
    import jax.numpy as jnp
    import optax
    from jax import Array
else:

    class _Module:
        """A module that is imported when one of its names is first used."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            value = getattr(importlib.import_module(self._name), name)
            setattr(self, name, value)
            return value

    class _ArrayType(type):
        def __instancecheck__(cls, value: object) -> bool:
            # Before JAX is loaded no value can be one of its arrays.
            return "jax" in sys.modules and isinstance(value, sys.modules["jax"].Array)

    class Array(metaclass=_ArrayType):
        """Stands for `jax.Array` in annotations: the same values are instances of it."""

    jax, jnp, optax = _Module("jax"), _Module("jax.numpy"), _Module("optax")

__all__ = ["Array", "jax", "jnp", "optax"]
