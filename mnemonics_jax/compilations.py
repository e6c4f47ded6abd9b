"""Counts the programs XLA compiles, those taken from the persistent cache included; and sets that cache up."""

import os

import jax

from mnemonics_jax.files import user_cache

_EVENT = "/jax/core/compile/backend_compile_duration"
_count = 0


def _listen(event: str, duration: float, **_: object) -> None:
    global _count
    if event == _EVENT:
        _count += 1


jax.monitoring.register_event_duration_secs_listener(_listen)


def compilations() -> int:
    """Programs compiled by this process since this module was imported."""
    return _count


def use_persistent_cache() -> None:
    """Keeps compiled programs for later processes, in JAX_COMPILATION_CACHE_DIR or the user's cache folder.

    Of those that took 0.2 seconds or more, unless JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS says otherwise.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(user_cache("xla")))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
