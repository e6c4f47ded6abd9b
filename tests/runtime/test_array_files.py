"""Arrays that come back from the disk as the same bytes, or with an error of ours."""

import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.runtime.array_files import restore_arrays, save_arrays
from mnemonics_jax.runtime.folders import CorruptedError


class Pair(NamedTuple):
    one: object
    two: object


def tree():
    half = jnp.arange(3, dtype=jnp.bfloat16)
    return {"pair": Pair(np.asarray(3, np.int32), half), "none": None, "deep": {"bytes": np.ones((1, 2), np.uint8)}}


def test_arrays_come_back_as_the_same_bytes_on_the_host(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = (tmp_path / "arrays").relative_to(tmp_path)
    save_arrays(folder, tree())
    restored = restore_arrays(folder, jax.eval_shape(tree))
    assert jax.tree.structure(restored) == jax.tree.structure(tree())
    for found, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(tree()), strict=True):
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


@pytest.mark.parametrize("name", ["a[1]", "a*", "what?", "[!a]", "a b", "ä"])
def test_any_folder_name_works(tmp_path, name):
    (tmp_path / name).mkdir()
    save_arrays(tmp_path / name / "arrays", tree())
    restored = restore_arrays(tmp_path / name / "arrays", jax.eval_shape(tree))
    assert [leaf.tobytes() for leaf in jax.tree.leaves(restored)] == [
        np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree())
    ]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("like", [{"pair": np.zeros(3)}, {**tree(), "more": np.zeros(1)}], ids=["less", "more"])
def test_other_arrays_than_expected_are_damage(tmp_path, like):
    save_arrays(tmp_path / "arrays", tree())
    with pytest.raises(CorruptedError, match="arrays does not hold the arrays that are expected"):
        restore_arrays(tmp_path / "arrays", like)
    with pytest.raises(CorruptedError, match="nothing does not hold"):
        restore_arrays(tmp_path / "nothing", like)


def test_what_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        save_arrays(tmp_path / "file" / "arrays", tree())


def test_many_threads_may_save_at_the_same_time(tmp_path):
    """As the checkpoint threads of seeds at once do; Orbax's own saves would wait for each other for ever."""
    program = (
        "import sys, numpy as np\nfrom concurrent.futures import ThreadPoolExecutor\nfrom pathlib import Path\n"
        "from mnemonics_jax.runtime.array_files import save_arrays\n"
        "arrays = {str(i): np.zeros(1000) for i in range(20)}\n"
        "with ThreadPoolExecutor(6) as threads:\n"
        "    list(threads.map(lambda i: save_arrays(Path(sys.argv[1]) / str(i), arrays), range(30)))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
    assert len(list(tmp_path.iterdir())) == 30
