"""XLA's persistent compilation cache, and a count of compiled programs that includes those read from the cache."""

import gc
import logging
import os
from pathlib import Path

import jax

from mnemonics_jax.runtime.files import user_cache_folder

_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"
_count = 0
_compiling = False

# Compiled code on a CPU takes memory maps, and Linux lets a process have 65,530: at the limit LLVM ends it by a
# segmentation fault. A run with programs of its own takes 2,000.
_MAPS = Path("/proc/self/maps")
_MANY_MAPS = 20_000


def _listen(event: str, duration: float | int, **_: object) -> None:
    global _count, _compiling
    if event == _COMPILED:
        _count += 1
    # A program is compiled right after it is lowered.
    if event in (_LOWERED, _COMPILED):
        _compiling = event == _LOWERED


jax.monitoring.register_event_duration_secs_listener(_listen)


def num_compilations() -> int:
    """Return how many programs this process has compiled since this module was imported."""
    return _count


def is_compiling() -> bool:
    """Return whether a program is being compiled now, as far as the events of JAX tell."""
    return _compiling


def use_persistent_cache() -> None:
    """Store compiled programs for later processes, in JAX_COMPILATION_CACHE_DIR or the user's cache folder.

    Programs that compile in less than JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS (default: 0.2) are not stored. Without
    a cache folder that only this user can write to, nothing is stored, and a warning says why.
    """
    if jax.config.jax_compilation_cache_dir is None:
        try:
            folder = user_cache_folder("xla")
        except OSError as error:
            logging.getLogger(__name__).warning("compiled programs are not kept for later processes: %s", error)
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def release_programs(limit: int = _MANY_MAPS) -> bool:
    """Forget all compiled programs if this process has more than `limit` memory maps, and return whether it did so.

    For a process that runs many configurations, between two of them: what is needed again is read from the persistent
    cache or compiled anew. Where maps cannot be counted, that is on other systems than Linux, nothing is done.
    """
    if not _MAPS.exists() or len(_MAPS.read_bytes().splitlines()) <= limit:
        return False
    jax.clear_caches()
    gc.collect()
    return True
