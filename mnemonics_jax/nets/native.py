"""Convolution on CPU by kernels of our own (`native.cc`), compiled for this processor when they are first needed.

XLA's CPU convolutions reach a third to a half of what the processor can do, and they are most of a training step. The
kernels here are for float32 on a single CPU device. They need a C++ compiler (`$CXX`, else `c++`); without one, or with
MNEMONICS_NATIVE=0 in the environment, `supports` is false and the caller takes XLA's. The compiled library is kept in
the user's cache folder, under a name that tells source, compiler, processor and jaxlib.
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
import jax.numpy as jnp
import jaxlib
import numpy as np
from jaxtyping import Array, Float

_SOURCE = Path(__file__).with_suffix(".cc")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-w")
_TARGETS = {"mnemonics_correlate": "MnemonicsCorrelate", "mnemonics_kernel_gradient": "MnemonicsKernelGradient"}


def supports(x: Array) -> bool:
    """Whether the kernels are at hand for an array like `x`. The first call for a float32 array may compile them."""
    # XLA cannot split a foreign kernel over devices: it would run whole on each.
    return x.dtype == jnp.float32 and jax.default_backend() == "cpu" and jax.device_count() == 1 and _register()


def correlate(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "a b c o"],
    rows: tuple[int, int],
    columns: tuple[int, int],
    stride: int,
) -> Float[Array, "n h2 w2 o"]:
    """y[n,i,j,o] = Σ_{a,b,c} x[n, s·i+a, s·j+b, c] · kernel[a,b,c,o], x padded by (before, after) zeros; float32."""
    height, width = (
        (size + sum(padding) - taps) // stride + 1
        for size, padding, taps in zip(x.shape[1:3], (rows, columns), kernel.shape[:2], strict=True)
    )
    shape = (x.shape[0], height, width, kernel.shape[3])
    return _call("mnemonics_correlate", shape, x, kernel, stride, rows[0], columns[0])


def kernel_gradient(
    x: Float[Array, "n h w c"], y_bar: Float[Array, "n h2 w2 o"], size: int, pad: int, stride: int
) -> Float[Array, "k k c o"]:
    """k̄[a,b,c,o] = Σ_{n,i,j} x[n, s·i+a−p, s·j+b−p, c] · ȳ[n,i,j,o], zeros outside; float32.

    The order of the sum does not depend on the number of threads.
    """
    shape = (size, size, x.shape[3], y_bar.shape[3])
    return _call("mnemonics_kernel_gradient", shape, x, y_bar, stride, pad, pad)


def _call(target: str, shape: tuple[int, ...], a: Array, b: Array, stride: int, top: int, left: int) -> Array:
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(shape, jnp.float32), vmap_method="sequential")
    return call(a, b, stride=np.int64(stride), top=np.int64(top), left=np.int64(left))


@functools.cache
def _register() -> bool:
    if os.environ.get("MNEMONICS_NATIVE") == "0":
        return False
    try:
        library = ctypes.CDLL(str(_library()))
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else error
        logging.getLogger(__name__).warning("convolutions run without the compiled kernels, more slowly: %s", why)
        return False
    for target, symbol in _TARGETS.items():
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
    return True


def _library() -> Path:
    """The compiled library, made if it is not there. Raises `OSError` or `CalledProcessError` where it cannot be."""
    named = os.environ.get("CXX", "c++")
    compiler = shutil.which(named)
    if compiler is None:
        raise FileNotFoundError(f"no C++ compiler {named!r} found: install one, or set CXX to it")
    # What the compiler predefines tells its version and what the processor can do.
    macros = _run(compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull)
    name = hashlib.sha256(_SOURCE.read_bytes() + macros + jaxlib.__version__.encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "mnemonics_jax" / "native" / f"{name}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may come here at once: each compiles its own, and the last one's name change holds.
        with tempfile.TemporaryDirectory(dir=path.parent) as draft:
            _run(compiler, *_FLAGS, f"-I{jax.ffi.include_dir()}", str(_SOURCE), "-o", f"{draft}/{path.name}")
            Path(draft, path.name).replace(path)
    return path


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout
