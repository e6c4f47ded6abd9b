"""One mesh over all devices: eight compute what one computes, and batches that do not divide are refused."""

import pickle

import jax
import numpy as np
import pytest
from helpers import child_process, xla_flags

CHILD = """
from pathlib import Path
import jax, numpy as np
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.phase.callbacks import NoCallbacks
setup = make_setup(argument)
state = initial_state(setup)
for _ in range(setup.stream.num_phases):
    state = run_phase(setup, state, NoCallbacks())
cut = {str(shard.data.shape) for shard in setup.train_store.gather(np.arange(64)).addressable_shards}
Path(words[0]).write_bytes(pickle.dumps((jax.device_count(), cut, jax.tree.map(np.asarray, state))))
"""


def compute(config, folder, devices, **environment):
    """(device count, shapes of a batch's parts, final state) of a run in a process that has so many devices."""
    source, result = folder / f"config{devices}.pickle", folder / f"state{devices}.pickle"
    environment["XLA_FLAGS"] = xla_flags(devices)
    with child_process(CHILD, config, source, result, **environment) as child:
        said = child.communicate()[1]
    assert child.returncode == 0, said
    return pickle.loads(result.read_bytes())


def compare(config, folder, **environment):
    one, eight = (compute(config, folder, n, **environment) for n in (1, 8))
    assert (one[0], eight[0]) == (1, 8)
    assert one[1] == {"(64, 8, 8, 1)"}
    assert eight[1] == {"(8, 8, 8, 1)"}
    np.testing.assert_array_equal(eight[2].num_correct, one[2].num_correct)
    np.testing.assert_array_equal(eight[2].num_correct_exemplar_model, one[2].num_correct_exemplar_model)
    return one[2], eight[2]


@pytest.mark.parametrize(
    ("method", "kind"), [("lucir", "herding"), pytest.param("icarl", "mnemonics", marks=pytest.mark.slow)]
)
def test_eight_devices_compute_what_one_computes(tiny, tmp_path, method, kind):
    config = tiny.config(
        method, kind, net={"precision": "float64"}, stream={"phases": 1}, train={"epochs": 2, "milestones": ()}
    )
    one, eight = compare(config, tmp_path, JAX_ENABLE_X64="1")
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(eight.variables), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(eight.memory.images, one.memory.images)


@pytest.mark.slow
def test_eight_devices_are_as_accurate_in_float32(tiny, tmp_path):
    compare(tiny.config("lucir", "herding", stream={"phases": 1}, train={"epochs": 2}), tmp_path)


def test_batches_that_do_not_divide_are_refused_with_sizes_that_do(tiny, tmp_path):
    config = tiny.config("icarl", "mnemonics", train={"batch_size": 100})
    with child_process(CHILD, config, tmp_path / "config.pickle", "", XLA_FLAGS=xla_flags(8)) as child:
        said = child.communicate()[1]
    assert child.returncode != 0
    assert "--train.batch-size 100 does not divide over 8 devices: choose a multiple of 8, such as 96 or 104" in said
