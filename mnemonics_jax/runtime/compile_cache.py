"""XLA's persistent compilation cache, and a count of compiled programs that includes those read from the cache."""

import os

import jax

from mnemonics_jax.runtime.files import user_cache_folder

_EVENT = "/jax/core/compile/backend_compile_duration"
_count = 0


def _listen(event: str, duration: float, **_: object) -> None:
    global _count
    if event == _EVENT:
        _count += 1


jax.monitoring.register_event_duration_secs_listener(_listen)


def num_compilations() -> int:
    """Return how many programs this process has compiled since this module was imported."""
    return _count


def use_persistent_cache() -> None:
    """Store compiled programs for later processes, in JAX_COMPILATION_CACHE_DIR or the user's cache folder.

    Programs that compile in less than JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS (default: 0.2) are not stored.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(user_cache_folder("xla")))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
