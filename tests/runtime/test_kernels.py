"""The compiled convolution kernels against XLA's convolution in float64, and what happens where there are none."""

import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import xla_flags
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from mnemonics_jax.nets.convolution import convolve
from mnemonics_jax.runtime import kernels

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu" or not shutil.which("c++"), reason="the kernels are for CPU and need a compiler"
)


@pytest.fixture(autouse=True, scope="module")
def _compiled_kernels():
    """Compiled and registered; where a compiler is there, they must be."""
    assert kernels.supports(jnp.ones(1))


def reference(x, kernel, rows, columns, stride):
    """Cross-correlation by lax in float64."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), (rows, columns), dimension_numbers=layout)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def assert_near(ours, theirs):
    assert ours.dtype == jnp.float32
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=3e-6 * max(1.0, float(np.abs(theirs).max())))


# One vector or several, a part of one, and a part beyond; widths below, at and above a tile of pixels.
channels = st.sampled_from([1, 2, 3, 5, 16, 17, 32, 40, 64])
sides = st.sampled_from([1, 2, 3, 7, 8, 9, 13, 32])
pads = st.integers(0, 2)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    taps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.sampled_from([1, 2]),
    images=st.integers(1, 3),
    size=st.tuples(sides, sides),
    c=channels,
    o=channels,
    pads=st.tuples(pads, pads, pads, pads),
    seed=st.integers(0, 1000),
)
def test_correlate(taps, stride, images, size, c, o, pads, seed):
    rows, columns = pads[:2], pads[2:]
    if size[0] + sum(rows) < taps[0] or size[1] + sum(columns) < taps[1]:
        return
    x, kernel = draw(seed, (images, *size, c), (*taps, c, o))
    ours = kernels.correlate(jnp.asarray(x), jnp.asarray(kernel), rows, columns, stride)
    with jax.enable_x64(True):
        theirs = reference(*(jnp.asarray(a, jnp.float64) for a in (x, kernel)), rows, columns, stride)
    assert_near(ours, np.asarray(theirs))


@pytest.mark.parametrize(
    ("side", "c", "o", "stride"),
    [
        (32, 16, 16, 1),
        (32, 16, 32, 2),
        (16, 32, 32, 1),
        (16, 32, 64, 2),
        (8, 64, 64, 1),
        (9, 64, 40, 1),
        (19, 32, 9, 1),
    ],
)
def test_correlate_as_the_networks_do(side, c, o, stride):
    """Wide tiles of one vector, kernels too big for the first cache, several blocks of channels, a part of one."""
    x, kernel = draw(side, (2, side, side, c), (3, 3, c, o))
    ours = kernels.correlate(jnp.asarray(x), jnp.asarray(kernel), (1, 1), (1, 1), stride)
    with jax.enable_x64(True):
        theirs = reference(*(jnp.asarray(a, jnp.float64) for a in (x, kernel)), (1, 1), (1, 1), stride)
    assert_near(ours, np.asarray(theirs))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    taps=st.sampled_from([3, 5]),
    stride=st.sampled_from([1, 2]),
    images=st.sampled_from([1, 2, 9, 17]),
    size=st.tuples(sides, sides),
    c=channels,
    o=channels,
    seed=st.integers(0, 1000),
)
def test_kernel_gradient(taps, stride, images, size, c, o, seed):
    pad = taps // 2
    y_shape = (images, -(-size[0] // stride), -(-size[1] // stride), o)
    x, y_bar = draw(seed, (images, *size, c), y_shape)
    ours = kernels.kernel_gradient(jnp.asarray(x), jnp.asarray(y_bar), taps, pad, stride)
    with jax.enable_x64(True):
        wide = jnp.asarray(x, jnp.float64)

        def correlate(kernel):
            return reference(wide, kernel, (pad, pad), (pad, pad), stride)

        (theirs,) = jax.vjp(correlate, jnp.zeros((taps, taps, c, o)))[1](jnp.asarray(y_bar, jnp.float64))
    assert_near(ours, np.asarray(theirs))


def test_images_beyond_one_unit_of_work():
    x, kernel = draw(0, (2, 120, 90, 20), (3, 3, 20, 24))
    y = kernels.correlate(jnp.asarray(x), jnp.asarray(kernel), (1, 1), (1, 1), 1)
    k_bar = kernels.kernel_gradient(jnp.asarray(x), y, 3, 1, 1)
    with jax.enable_x64(True):
        wide = jnp.asarray(x, jnp.float64)
        theirs, transpose = jax.vjp(lambda k: reference(wide, k, (1, 1), (1, 1), 1), jnp.asarray(kernel, jnp.float64))
        (k_theirs,) = transpose(jnp.asarray(y, jnp.float64))
    assert_near(y, np.asarray(theirs))
    assert_near(k_bar, np.asarray(k_theirs))


def test_under_vmap_and_in_a_scan():
    x, kernel = (jnp.asarray(a) for a in draw(1, (3, 2, 5, 4, 2), (3, 3, 2, 2)))

    def descend(x, kernel):
        def step(kernel, _):
            return kernel - 0.1 * jax.grad(lambda k: jnp.mean(jnp.sin(convolve(x, k))))(kernel), None

        return lax.scan(step, kernel, None, length=3)[0]

    together = jax.jit(jax.vmap(descend, (0, None)))(x, kernel)
    for i in range(3):
        np.testing.assert_allclose(together[i], jax.jit(descend)(x[i], kernel), atol=1e-6)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("o", [3, 32])
def test_a_batch_is_one_call_with_the_bits_of_each_alone(axes, o):
    """Under two vmaps, for kernels that fill their vectors and for ones that do not."""
    shapes = [(2, 3, 4, 6, 5, 7), (2, 3, 3, 3, 7, o)]
    x, kernel = (jnp.asarray(a if axis == 0 else a[0, 0]) for a, axis in zip(draw(3, *shapes), axes, strict=True))

    def both(x, kernel):
        y = kernels.correlate(x, kernel, (1, 1), (1, 1), 2)
        return y, kernels.kernel_gradient(x, y, 3, 1, 2)

    batched = jax.jit(jax.vmap(jax.vmap(both, axes), axes))
    assert batched.lower(x, kernel).as_text().count("stablehlo.while") == 0
    together = batched(x, kernel)
    for i in range(2):
        for j in range(3):
            alone = jax.jit(both)(*(a[i, j] if axis == 0 else a for a, axis in zip((x, kernel), axes, strict=True)))
            for ours, theirs in zip(together, alone, strict=True):
                assert np.array_equal(ours[i, j], theirs)


def test_used_for_float32_only():
    lowered = [
        jax.jit(jax.grad(lambda k, x: jnp.sum(convolve(x, k) ** 2)))
        .lower(jnp.ones((3, 3, 2, 2), dtype), jnp.ones((1, 4, 4, 2), dtype))
        .as_text()
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    assert "stablehlo.convolution" not in lowered[0]
    assert "@mnemonics_correlate" in lowered[0]
    assert "@mnemonics_kernel_gradient" in lowered[0]
    assert "@mnemonics" not in lowered[1]


def fresh_process(environment):
    """What a new process says of the kernels, and what it warns of."""
    code = (
        "import logging, jax.numpy as jnp; logging.basicConfig(); "
        "from mnemonics_jax.runtime import kernels; from mnemonics_jax.nets.convolution import convolve; "
        "print(kernels.supports(jnp.ones(1)), convolve(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1))).sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split(), done.stderr


def test_without_a_compiler_or_switched_off(tmp_path):
    empty = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    assert fresh_process({**empty, "MNEMONICS_NATIVE": "0"}) == (["False", "49.0"], "")
    said, warned = fresh_process({**empty, "CXX": "no-such-compiler"})
    assert said == ["False", "49.0"]
    assert "without compiled kernels" in warned
    assert "no-such-compiler" in warned


def test_compiled_once_for_all_processes(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    made = []
    for _ in range(2):
        assert fresh_process(environment)[0] == ["True", "49.0"]
        (library,) = (tmp_path / "mnemonics_jax" / "native").iterdir()
        made.append(library.stat().st_mtime_ns)
    assert made[0] == made[1]


def empty(library):
    library.write_bytes(b"")


def cut(library):
    library.write_bytes(library.read_bytes()[: library.stat().st_size // 2])


def flip(library):
    content = bytearray(library.read_bytes())
    content[len(content) // 2 :: 97] = bytes(len(content[len(content) // 2 :: 97]))
    library.write_bytes(content)


def open_to_others(library):
    library.chmod(0o777)


def link_elsewhere(library):
    library.replace(library.parent / "elsewhere")
    library.symlink_to(library.parent / "elsewhere")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache folder with a good library."""
    cache = tmp_path_factory.mktemp("cache")
    assert fresh_process({**os.environ, "XDG_CACHE_HOME": str(cache)})[0] == ["True", "49.0"]
    return cache


@pytest.mark.parametrize("damage", [empty, cut, flip, open_to_others, link_elsewhere])
def test_a_library_that_is_not_what_was_compiled_is_compiled_again(compiled, tmp_path, damage):
    shutil.copytree(compiled, tmp_path / "cache")
    (library,) = (tmp_path / "cache" / "mnemonics_jax" / "native").glob("*.so")
    good = library.read_bytes()
    damage(library)
    said, warned = fresh_process({**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert said == ["True", "49.0"]
    assert f"{library} is damaged or not yours" in warned
    assert library.read_bytes() == good
    assert not library.is_symlink()


def other_owner(folder):
    os.chown(folder, 12345, 12345)


def writable_by_others(folder):
    folder.chmod(0o777)


@pytest.mark.parametrize("change", [writable_by_others, other_owner])
def test_a_folder_that_others_can_write_is_not_used(compiled, tmp_path, change):
    if change is other_owner and os.geteuid():
        pytest.skip("only root can give files away")
    shutil.copytree(compiled, tmp_path / "cache")
    folder = tmp_path / "cache" / "mnemonics_jax" / "native"
    (library,) = folder.glob("*.so")
    library.write_bytes(b"another user's")
    change(folder)
    said, warned = fresh_process({**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert said == ["True", "49.0"]
    assert f"other users can write to {folder}" in warned
    assert library.read_bytes() == b"another user's"


def test_a_compiler_may_write_in_any_encoding(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_bytes(b"#!/bin/sh\nprintf 'erreur fatale: l\\351t\\351' >&2\nexit 1\n")
    compiler.chmod(0o755)
    said, warned = fresh_process({**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CXX": str(compiler)})
    assert said == ["False", "49.0"]
    assert "erreur fatale" in warned


def test_eight_devices_take_what_xla_can_split():
    environment = {**os.environ, "XLA_FLAGS": xla_flags(8)}
    assert fresh_process(environment)[0] == ["False", "49.0"]
