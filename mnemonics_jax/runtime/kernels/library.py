"""The compiled library of the kernels, which all processes of a user share, and its registration with XLA.

Compiling needs a C++ compiler (`$CXX`, else `c++`). Without one, a warning says why the run is slower.
MNEMONICS_NATIVE=0 in the environment switches the kernels off. The library is in the user's cache folder; its name is
a hash of sources, compiler, processor and jaxlib version.
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

from mnemonics_jax.runtime.files import user_cache_folder

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-w")
_TARGETS = {
    "mnemonics_correlate": "MnemonicsCorrelate",
    "mnemonics_kernel_gradient": "MnemonicsKernelGradient",
    "mnemonics_herd": "MnemonicsHerd",
}


@functools.cache
def register() -> bool:
    """Register the kernels with XLA; return false where they are switched off or cannot be compiled."""
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
    """Return the path of the library, and compile it if it does not exist.

    Raises:
        OSError: when there is no compiler, or the library cannot be written.
        CalledProcessError: when the compiler fails.
    """
    named = os.environ.get("CXX", "c++")
    compiler = shutil.which(named)
    if compiler is None:
        raise FileNotFoundError(f"no C++ compiler {named!r} found: install one, or set CXX to it")
    sources = sorted(_FOLDER.glob("*.cc"))
    # The predefined macros show the compiler's version and the processor's features.
    macros = _run(compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull)
    content = b"".join(path.read_bytes() for path in (*sources, _FOLDER / "common.h"))
    name = hashlib.sha256(content + macros + jaxlib.__version__.encode()).hexdigest()[:16]
    path = user_cache_folder("native") / f"{name}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may compile at once: each writes its own draft, and the last rename wins.
        with tempfile.TemporaryDirectory(dir=path.parent) as draft:
            _run(compiler, *_FLAGS, f"-I{jax.ffi.include_dir()}", *map(str, sources), "-o", f"{draft}/{path.name}")
            Path(draft, path.name).replace(path)
    return path


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout
