"""Class-incremental learning with learned exemplars (Mnemonics Training, CVPR 2020) in JAX and Flax.

    import mnemonics_jax as mn

    result = mn.run(mn.make_config("digits", method="lucir", exemplars="mnemonics"))

Each name in `__all__` is imported at its first use: `import mnemonics_jax` alone does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemonics_jax import bilevel
    from mnemonics_jax.config.config import Config
    from mnemonics_jax.config.parsing import override
    from mnemonics_jax.config.presets import make_config
    from mnemonics_jax.exemplars import register_exemplars
    from mnemonics_jax.methods import register_method
    from mnemonics_jax.phase.callbacks import Callbacks, NoCallbacks
    from mnemonics_jax.phase.run_phase import run_phase
    from mnemonics_jax.phase.setup import Setup, make_setup
    from mnemonics_jax.phase.state import PhaseState, initial_state
    from mnemonics_jax.runs.model import Model, load_model
    from mnemonics_jax.runs.result import Result, run
    from mnemonics_jax.runtime.errors import NumbersError, UserError

__version__ = "0.1.0"

__all__ = [
    "Callbacks",
    "Config",
    "Model",
    "NoCallbacks",
    "NumbersError",
    "PhaseState",
    "Result",
    "Setup",
    "UserError",
    "bilevel",
    "initial_state",
    "load_model",
    "make_config",
    "make_setup",
    "override",
    "register_exemplars",
    "register_method",
    "run",
    "run_phase",
]

_MODULES = {
    "config.config": ("Config",),
    "config.parsing": ("override",),
    "config.presets": ("make_config",),
    "exemplars": ("register_exemplars",),
    "methods": ("register_method",),
    "phase.callbacks": ("Callbacks", "NoCallbacks"),
    "phase.run_phase": ("run_phase",),
    "phase.setup": ("Setup", "make_setup"),
    "phase.state": ("PhaseState", "initial_state"),
    "runs.model": ("Model", "load_model"),
    "runs.result": ("Result", "run"),
    "runtime.errors": ("NumbersError", "UserError"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Return a public name, imported at its first use (PEP 562)."""
    if name == "bilevel":
        return importlib.import_module("mnemonics_jax.bilevel")
    if name not in _HOME:
        raise AttributeError(f"module 'mnemonics_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mnemonics_jax.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
