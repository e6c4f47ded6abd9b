"""The compiled library of the kernels, which all processes of a user share, and its registration with XLA.

Compiling needs a C++ compiler (`$CXX`, else `c++`). Without one, a warning says why the run is slower.
MNEMONICS_NATIVE=0 in the environment switches the kernels off. The library is in the user's cache folder; its name is
`name` and the checksum of its bytes.
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

from mnemonics_jax.runtime.files import only_ours, remove, user_cache_folder

_logger = logging.getLogger(__name__)
_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-w")
_TARGETS = {
    "mnemonics_correlate": "MnemonicsCorrelate",
    "mnemonics_kernel_gradient": "MnemonicsKernelGradient",
    "mnemonics_normalise": "MnemonicsNormalise",
    "mnemonics_normalise_gradient": "MnemonicsNormaliseGradient",
    "mnemonics_herd": "MnemonicsHerd",
}


@functools.cache
def register() -> bool:
    """Register the kernels with XLA; return false where they are switched off or cannot be compiled."""
    if os.environ.get("MNEMONICS_NATIVE") == "0":
        return False
    try:
        library = _load()
        targets = {target: getattr(library, symbol) for target, symbol in _TARGETS.items()}
    except (OSError, AttributeError, subprocess.CalledProcessError) as error:
        output = isinstance(error, subprocess.CalledProcessError)
        # A compiler writes in the encoding of its language.
        why = error.stderr.decode(errors="replace") if output else error
        _logger.warning("the run goes on without compiled kernels, more slowly: %s", why)
        return False
    for target, function in targets.items():
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(function), platform="cpu")
    return True


@functools.cache
def name() -> str:
    """Return a hash of all that decides what the kernels compute: sources, compiler, processor and jaxlib version.

    Raises:
        OSError: when there is no compiler.
        CalledProcessError: when the compiler fails.
    """
    # The predefined macros show the compiler's version and the processor's features.
    macros = _run(_compiler(), "-march=native", "-dM", "-E", "-x", "c++", os.devnull)
    content = b"".join(path.read_bytes() for path in (*_sources(), _FOLDER / "common.h"))
    return hashlib.sha256(content + macros + jaxlib.__version__.encode()).hexdigest()[:16]


def _load() -> ctypes.CDLL:
    """Return the library from the user's cache, compiled first where no good one is there.

    Raises:
        OSError: when there is no compiler, or the library cannot be written.
        CalledProcessError: when the compiler fails.
    """
    try:
        folder = user_cache_folder("native")
    except OSError as error:
        _logger.warning("the kernels are compiled for this process alone: %s", error)
        with tempfile.TemporaryDirectory() as place:
            return ctypes.CDLL(str(_compile(Path(place))))
    return ctypes.CDLL(str(_find(folder) or _compile(folder)))


def _find(folder: Path) -> Path | None:
    """Return the library in `folder` if it is good, and remove it if it is not.

    Its name ends with the checksum of its bytes: loading a damaged library would end the process, or compute something
    else. One that another user could have written is not loaded.
    """
    for path in sorted(folder.glob(f"{name()}-*.so")):
        if path.is_file() and not path.is_symlink() and only_ours(path) and path.stem.endswith(_checksum(path)):
            return path
        _logger.warning("%s is damaged or not yours: it is compiled again", path)
        remove(path)
    return None


def _compile(folder: Path) -> Path:
    """Compile the library into `folder`, and return its path."""
    # Several processes may compile at once: each writes its own draft, and the last rename wins.
    with tempfile.TemporaryDirectory(dir=folder) as place:
        draft = Path(place, "draft.so")
        _run(_compiler(), *_FLAGS, f"-I{jax.ffi.include_dir()}", *map(str, _sources()), "-o", str(draft))
        draft.chmod(0o700)
        return draft.replace(folder / f"{name()}-{_checksum(draft)}.so")


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _sources() -> list[Path]:
    return sorted(_FOLDER.glob("*.cc"))


def _compiler() -> str:
    named = os.environ.get("CXX", "c++")
    compiler = shutil.which(named)
    if compiler is None:
        raise FileNotFoundError(f"no C++ compiler {named!r} found: install one, or set CXX to it")
    return compiler


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout
