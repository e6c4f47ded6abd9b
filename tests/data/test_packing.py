"""Packed images: their bytes, what is lost, and that a run stores nothing that cannot be packed."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from mnemonics_jax import data
from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.packing import pack, pack_dataset, packed_bytes, through_packing, unpack
from mnemonics_jax.exemplars import gate as exemplars_gate
from mnemonics_jax.exemplars import learning
from mnemonics_jax.exemplars.inner import Meta
from mnemonics_jax.exemplars.outer import learn_chunk
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.progress import Display


@pytest.mark.parametrize(
    ("shape", "size"),
    [((16, 16, 3), 16 * 16 * 3 // 4), ((8, 8, 1), 32), ((5, 7, 1), 18), ((5, 7, 3), 18 + 12), ((4, 6, 3), 12 + 6)],
)
def test_bytes(shape, size):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    packed = pack(images)
    assert packed.shape == (3, size)
    assert packed.dtype == np.uint8
    assert packed_bytes(shape) == size
    assert unpack(packed, shape).shape == images.shape
    np.testing.assert_array_equal(unpack(packed, shape), through_packing(images))


def test_grey_values_are_the_nearest_of_sixteen():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    expected = [min(range(0, 256, 17), key=lambda level: abs(level - value)) for value in range(256)]
    np.testing.assert_array_equal(through_packing(every).ravel(), expected)
    np.testing.assert_array_equal(through_packing(through_packing(every)), through_packing(every))


def test_colour_images_follow_the_written_out_transform():
    """Derived once more by matrices and JAX's resizing."""
    rng = np.random.default_rng(1)
    smooth = jax.image.resize(rng.uniform(60, 190, (2, 4, 4, 3)), (2, 8, 12, 3), "cubic")
    images = np.clip(np.rint(smooth), 0, 255).astype(np.uint8)
    forward = np.array([[0.299, 0.587, 0.114]])
    forward = np.concatenate([forward, 0.564 * (np.eye(3)[2:] - forward), 0.713 * (np.eye(3)[:1] - forward)])
    luma, *colours = np.moveaxis(images.astype(np.float64) @ forward.T, -1, 0)
    planes = [np.rint(luma / 17) * 17]
    for colour in colours:
        small = [colour[:, i : i + 2, j : j + 2].mean(axis=(1, 2)) for i in range(0, 8, 2) for j in range(0, 12, 2)]
        step = 128 / 15
        levels = np.rint((np.clip(np.stack(small, axis=1), -64, 64) + 64) / step) * step - 64
        planes.append(np.asarray(jax.image.resize(levels.reshape(-1, 4, 6), (2, 8, 12), "linear")))
    expected = np.stack(planes, axis=-1) @ np.linalg.inv(forward).T
    found = through_packing(images).astype(np.float64)
    np.testing.assert_allclose(found, np.clip(expected, 0, 255), atol=0.51)
    assert np.abs(found - images).mean() < 8


def test_a_packed_data_set_is_packed_in_both_splits():
    plain, packed = (data.load(DataConfig(storage=storage)) for storage in ("bytes", "packed"))
    assert (plain.packed, packed.packed) == (False, True)
    np.testing.assert_array_equal(packed.train_images, through_packing(plain.train_images))
    np.testing.assert_array_equal(packed.test_images, through_packing(plain.test_images))
    assert (packed.train_images != plain.train_images).any()
    assert packed.mean[0] == pytest.approx(packed.train_images.mean() / 255)


def test_what_cannot_be_packed_is_refused(tiny):
    plain = data.load(DataConfig())
    pairs = {name: np.concatenate([getattr(plain, name)] * 2, axis=3) for name in ("train_images", "test_images")}
    two = dataclasses.replace(plain, **pairs)
    with pytest.raises(UserError, match=r"--data.storage packed is for images of 1 or 3 channels, but digits has 2"):
        pack_dataset(two)
    config = tiny.config("icarl", "mnemonics", data={"storage": "packed"}, exemplars={"store": "float32"})
    with pytest.raises(UserError, match="two ways of storing exemplars"):
        make_setup(config)


def test_a_run_counts_packed_bytes(tiny, tmp_path):
    config = tiny.config("icarl", "random", data={"storage": "packed"}, train={"epochs": 1})
    summary = run_in_folder(config, tmp_path, Display())
    assert summary["memory_bytes"] == 10 * 4 * 32
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["memory_bytes"] for line in lines if line["event"] == "phase"] == [n * 4 * 32 for n in range(5, 11)]


@pytest.mark.parametrize("gate", [False, True])
def test_learned_exemplars_are_stored_as_packed(tiny, monkeypatch, gate):
    """The learner moves pixels to values that packing does not have."""

    def move(program, problem, meta, opt_state, batches, key):
        _, opt_state, log = learn_chunk(program, problem, meta, opt_state, batches, key)
        moved = np.clip(np.asarray(meta.pixels) + np.float32(24 / 255), 0, 1).astype(np.float32)
        return Meta(program.devices.put_whole(moved), meta.log_rates), opt_state, log

    monkeypatch.setattr(learning, "learn_chunk", move)
    monkeypatch.setattr(exemplars_gate, "decide", lambda *_: exemplars_gate.Verdict(0.5, [0.0] * 4, [None] * 4))
    setup = tiny.setup("icarl", "mnemonics", data={"storage": "packed"}, exemplars={"gate": gate})
    state = run_phase(setup, initial_state(setup))
    assert (state.memory.images % 17 == 0).all()
    kept = {image.tobytes() for image in setup.stream.dataset.train_images}
    assert sum(image.tobytes() not in kept for image in state.memory.images[:5].reshape(20, -1)) > 10
