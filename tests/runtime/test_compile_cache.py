"""More phases compile no more programs: each count comes from a process of its own."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import child_process

from mnemonics_jax.runtime.compile_cache import num_compilations, release_programs

CHILD = """
import json
from pathlib import Path
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.runs.runner import run_in_folder
print(json.dumps(run_in_folder(argument, Path(words[0]), Display())["compilations"]))
"""


def count(config, folder, **environment):
    """The summary's "compilations" of a run in a fresh process."""
    folder.mkdir()
    with child_process(CHILD, config, folder / "config.pickle", folder / "run", **environment) as child:
        told, said = child.communicate()
    assert child.returncode == 0, said
    return json.loads(told)


@pytest.mark.parametrize(("method", "kind"), [("icarl", "mnemonics"), ("bic", "herding"), ("lucir", "random")])
def test_eight_phases_compile_what_five_compile(tiny, tmp_path, method, kind):
    few = tiny.config(method, kind, stream={"base": 5, "phases": 5}, train={"epochs": 1})
    many = tiny.config(method, kind, stream={"base": 2, "phases": 8}, train={"epochs": 1})
    counts = [count(few, tmp_path / "few"), count(many, tmp_path / "many")]
    assert counts[0] == counts[1] > 0


def test_balanced_fine_tuning_compiles_one_program(tiny, tmp_path):
    def counted(name, **train):
        return count(tiny.config("icarl", "herding", **stream, train={"epochs": 1, **train}), tmp_path / name)

    stream = {"stream": {"base": 5, "phases": 5}}
    counts = [counted("without"), counted("few", balanced_steps=9)]
    stream = {"stream": {"base": 2, "phases": 8}}
    counts.append(counted("many", balanced_steps=9))
    assert counts[0] + 1 == counts[1] == counts[2]


@pytest.mark.slow
def test_programs_from_a_warm_cache_count_like_compiled_ones(tiny, tmp_path):
    config = tiny.config("icarl", "herding", train={"epochs": 1})
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    cold = count(config, tmp_path / "cold", **cache)
    entries = len(list((tmp_path / "cache").iterdir()))
    assert entries > 0
    warm = count(config, tmp_path / "warm", **cache)
    assert len(list((tmp_path / "cache").iterdir())) == entries, "the second process found every program"
    assert warm == cold


@pytest.mark.slow
def test_twenty_five_phases_of_resnet32_compile_what_five_compile(tiny, tmp_path):
    # 100 classes of 6 and 2 images of 8×8 pixels, all learning cut to one step of each kind.
    rng = np.random.default_rng(0)
    arrays = {}
    for split, each in (("train", 6), ("test", 2)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (100 * each, 8, 8, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(100 * each) % 100
    np.savez(tmp_path / "classes.npz", **arrays)
    shared = {
        "data": {"source": "npz", "path": str(tmp_path / "classes.npz")},
        "net": {"name": "resnet32"},
        "train": {"epochs": 1, "batch_size": 16, "chunk_steps": 4},
        "exemplars": {"per_class": 2, "unroll_length": 2, "inner_batch": 16, "outer_steps": 2, "outer_batch": 16},
    }
    counts = [
        count(tiny.config("lucir", "mnemonics", **shared, stream={"phases": phases}), tmp_path / str(phases))
        for phases in (5, 25)
    ]
    assert counts[0] == counts[1] > 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells the memory maps of a process")
def test_programs_are_released_when_there_are_many():
    program = jax.jit(lambda x: x + 1)
    program(1)
    before = num_compilations()
    assert not release_programs(10**6)
    program(1)
    assert num_compilations() == before
    assert release_programs(0)
    program(1)
    assert num_compilations() > before
