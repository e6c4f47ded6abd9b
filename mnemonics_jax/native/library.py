"""Compiles the kernels for this processor, once for all processes of a user, and hands them to XLA.

They need a C++ compiler (`$CXX`, else `c++`). Without one a warning tells why the run is slower. MNEMONICS_NATIVE=0 in
the environment switches them off. The compiled library stays in the user's cache folder, under a name that tells
sources, compiler, processor and jaxlib.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax
import jaxlib

from mnemonics_jax.files import user_cache

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-w")
_TARGETS = {
    "mnemonics_correlate": "MnemonicsCorrelate",
    "mnemonics_kernel_gradient": "MnemonicsKernelGradient",
    "mnemonics_herd": "MnemonicsHerd",
}


@functools.cache
def register() -> bool:
    """Makes the kernels known to XLA; false where they are switched off or cannot be compiled."""
    if os.environ.get("MNEMONICS_NATIVE") == "0":
        return False
    try:
        library = ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else error
        logging.getLogger(__name__).warning("the run goes on without compiled kernels, more slowly: %s", why)
        return False
    for target, symbol in _TARGETS.items():
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
    return True


def _compiled() -> Path:
    """The library, compiled if it is not there. Raises `OSError` or `CalledProcessError` where it cannot be."""
    named = os.environ.get("CXX", "c++")
    compiler = shutil.which(named)
    if compiler is None:
        raise FileNotFoundError(f"no C++ compiler {named!r} found: install one, or set CXX to it")
    sources = sorted(_FOLDER.glob("*.cc"))
    # What the compiler predefines tells its version and what the processor can do.
    macros = _run(compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull)
    content = b"".join(path.read_bytes() for path in (*sources, _FOLDER / "common.h"))
    name = hashlib.sha256(content + macros + jaxlib.__version__.encode()).hexdigest()[:16]
    path = user_cache("native") / f"{name}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may come here at once: each compiles its own, and the last one's change of name holds.
        with tempfile.TemporaryDirectory(dir=path.parent) as draft:
            _run(compiler, *_FLAGS, f"-I{jax.ffi.include_dir()}", *map(str, sources), "-o", f"{draft}/{path.name}")
            Path(draft, path.name).replace(path)
    return path


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout
