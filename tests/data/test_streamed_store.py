"""Streamed images: the same batches as from memory, in any process, in bounded memory."""

import dataclasses
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from mnemonics_jax.data import load
from mnemonics_jax.data.augmentation import Augmentation, random_resized_crop
from mnemonics_jax.data.image_store import DeviceStore
from mnemonics_jax.data.lazy_images import LazyImages, resized_crop
from mnemonics_jax.data.sampling import Shuffled
from mnemonics_jax.data.streamed_store import StreamedStore
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runtime.devices import all_devices
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.random_streams import Use, random_stream, root_key, stream_key

KEY = stream_key(root_key(0), 1, Use.AUGMENT)
STREAM = random_stream(root_key(0), 0, Use.ORDER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image folder: 4 classes of 30 and 10 pictures of different sizes, each class with a colour of its own."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label, (split, count) in itertools.product(range(4), (("train", 30), ("test", 10))):
        place = root / split / f"class{label}"
        place.mkdir(parents=True)
        for i in range(count):
            height, width = rng.integers(12, 30, 2)
            pixels = rng.integers(0, 120, (height, width, 3)) + 45 * np.array([label & 1, label >> 1, 1])
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def both(folder, tiny):
    """The folder's data set in memory and streamed."""
    config = dataclasses.replace(tiny.config().data, source="folder", path=str(folder), image_size=8)
    return load(config), load(dataclasses.replace(config, stream=True))


def streamed(dataset, workers=0, crops=False):
    return StreamedStore(dataset.train_images, workers, crops, all_devices())


EXEMPLARS = np.random.default_rng(5).integers(0, 256, (2, 3, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("shape", [(7,), (50,), (3, 40)])
def test_images_taken_are_those_in_memory(both, shape):
    kept = DeviceStore(both[0].train_images).with_exemplars(EXEMPLARS)
    stream = streamed(both[1]).with_exemplars(EXEMPLARS)
    index = np.random.default_rng(1).integers(0, 126, shape)
    np.testing.assert_array_equal(stream.gather(index), kept.gather(index))
    assert stream.gather(index).dtype == np.uint8


@pytest.mark.parametrize("first", [0, 4])
def test_training_chunks_are_those_from_memory(both, first):
    kept = DeviceStore(both[0].train_images).with_exemplars(EXEMPLARS)
    stream = streamed(both[1]).with_exemplars(EXEMPLARS)
    order = Shuffled(np.arange(126), STREAM, 16, 10)
    expected, found = (list(store.chunks(order, first, 4, KEY)) for store in (kept, stream))
    assert len(found) == len(expected) == (3 if first == 0 else 2)
    for e, f in zip(expected[:-1], found[:-1], strict=True):
        np.testing.assert_array_equal(f, e)
    np.testing.assert_array_equal(found[-1][:2], expected[-1][:2])  # the last chunk has two steps and two fillers


def test_crops_depend_on_step_and_place_alone(both):
    order = Shuffled(np.arange(126), STREAM, 16, 8)
    chunks = {}
    for workers in (0, 2):
        store = streamed(both[1], workers, crops=True).with_exemplars(EXEMPLARS)
        chunks[workers] = [np.asarray(chunk) for chunk in store.chunks(order, 0, 4, KEY)]
    np.testing.assert_array_equal(chunks[0], chunks[2])
    store = streamed(both[1], crops=True).with_exemplars(EXEMPLARS)
    np.testing.assert_array_equal(next(store.chunks(order, 4, 4, KEY)), chunks[0][1])
    assert not np.array_equal(next(store.chunks(order, 0, 4, KEY + 1)), chunks[0][0])
    whole = streamed(both[1]).with_exemplars(EXEMPLARS)
    assert not np.array_equal(next(whole.chunks(order, 0, 4, KEY)), chunks[0][0])


class Endless(Sequence):
    """A million records that count how often they are read."""

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 1_000_000

    def __getitem__(self, index):
        self.reads += 1
        return np.full((4, 4, 3), index % 256, np.uint8)


def test_a_fixed_number_of_batches_is_read_ahead():
    records = Endless()
    store = StreamedStore(LazyImages(records, 4, False), 0, False, all_devices())
    order = Shuffled(np.arange(1_000_000), STREAM, 8, 100_000)
    chunks = store.chunks(order, 0, 4, KEY)
    for _ in range(3):
        next(chunks)
    time.sleep(0.5)
    assert 3 * 4 * 8 <= records.reads <= (3 * 4 + (os.cpu_count() + 4) + os.cpu_count()) * 8


def test_a_bad_file_in_a_stream_is_named(both, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    pictures = dataclasses.replace(both[1].train_images, records=[*both[1].train_images.records[:5], str(bad)])
    store = StreamedStore(pictures, 0, False, all_devices())
    with pytest.raises(UserError, match=r"bad\.jpg"):
        list(store.chunks(Shuffled(np.arange(6), STREAM, 4, 2), 0, 2, KEY))


def test_unrounded_exemplars_are_refused(both):
    with pytest.raises(UserError, match="store float32"):
        streamed(both[1]).with_exemplars(EXEMPLARS.astype(np.float32))


def test_streaming_needs_a_size(folder, tiny):
    config = dataclasses.replace(tiny.config().data, source="folder", path=str(folder), stream=True)
    with pytest.raises(UserError, match="needs one size"):
        load(config)


def test_large_data_sets_are_streamed_by_themselves(folder, tiny, monkeypatch):
    config = dataclasses.replace(tiny.config().data, source="folder", path=str(folder), image_size=8)
    monkeypatch.setattr("mnemonics_jax.data.lazy_images._MOST_IN_MEMORY", 160 * 8 * 8 * 3)
    assert isinstance(load(config).train_images, np.ndarray)
    monkeypatch.setattr("mnemonics_jax.data.lazy_images._MOST_IN_MEMORY", 160 * 8 * 8 * 3 - 1)
    assert isinstance(load(config).train_images, LazyImages)


@pytest.mark.parametrize(("method", "kind"), [("icarl", "mnemonics"), ("bic", "herding")])
def test_a_streamed_run_is_the_run_from_memory(folder, tiny, method, kind):
    states = []
    for stream in (False, True):
        data = {"source": "folder", "path": str(folder), "image_size": 8, "stream": stream, "workers": 0}
        setup = tiny.setup(method, kind, data=data, stream={"phases": 1}, train={"epochs": 2, "batch_size": 16})
        state = initial_state(setup)
        for _ in range(2):
            state = run_phase(setup, state, NoCallbacks())
        states.append(state)
    for kept, streamed in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(streamed, kept)


# Random resized crops. The pictures are ramps, so that a crop's pixels tell where it lies.


def rectangles(crops, size):
    """(left, top, width, height) of crops of a ramp (red: column / size, green: row / size), as shares of the side."""
    crops = np.asarray(crops, np.float64)
    inner = slice(size // 4, -(size // 4))
    slopes = [np.diff(crops[:, inner, inner, c], axis=2 - c).mean((1, 2)) for c in (0, 1)]
    means = [crops[..., c].mean((1, 2)) for c in (0, 1)]
    width, height = (slope * size for slope in slopes)
    return means[0] - width / 2, means[1] - height / 2, width, height


def ramp(height, width):
    x = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    y = np.broadcast_to((np.arange(height)[:, None] + 0.5) / height, (height, width))
    return np.stack([x, y, 0 * x], axis=-1)


def check(left, top, width, height, slack):
    area, aspect = width * height, width / height
    assert area.min() > 0.08 - slack
    assert area.max() < 1 + slack
    assert aspect.min() > 3 / 4 - 5 * slack
    assert aspect.max() < 4 / 3 + 5 * slack
    assert min(left.min(), top.min()) > -slack
    assert max((left + width).max(), (top + height).max()) < 1 + slack
    # Shapes that do not fit are rare for small areas: there the area is uniform and the aspect log-uniform.
    small = area < 0.5
    assert np.mean(area[small]) == pytest.approx(0.29, abs=0.02)
    assert np.mean(np.log(aspect[small])) == pytest.approx(0, abs=0.03)
    assert np.std(np.log(aspect[small])) == pytest.approx(2 * np.log(4 / 3) / 12**0.5, abs=0.02)
    place = left[small] / (1 - width[small])
    assert (np.mean(place), np.std(place)) == pytest.approx((0.5, 12**-0.5), abs=0.03)


def test_device_crops_are_rectangles_of_the_right_sizes_and_places():
    size = 32
    images = np.broadcast_to(ramp(size, size), (2000, size, size, 3)).astype(np.float32)
    check(*rectangles(random_resized_crop(jax.random.key(0), images), size), 0.02)


def test_host_crops_are_rectangles_of_the_right_sizes_and_places():
    image = Image.fromarray(np.rint(ramp(200, 200) * 255).astype(np.uint8))
    rng = np.random.default_rng(0)
    crops = np.stack([np.asarray(resized_crop(image, 32, rng)) for _ in range(2000)]) / 255
    check(*rectangles(crops, 32), 0.03)


def test_a_device_crop_is_linear_interpolation():
    rng = np.random.default_rng(0)
    image = rng.random((1, 9, 9, 1)).astype(np.float32)
    position = ramp(9, 9).astype(np.float32)[None, ..., :2] * 9 - 0.5  # each pixel's own column and row
    crop, place = (np.asarray(random_resized_crop(jax.random.key(3), x))[0] for x in (image, position))
    for i, j in itertools.product(range(1, 8), range(1, 8)):
        x, y = place[i, j]
        if not (0 <= x < 8 and 0 <= y < 8):
            continue
        a, b = int(x), int(y)
        p, q = x - a, y - b
        near = image[0, b : b + 2, a : a + 2, 0]
        expected = np.array([1 - q, q]) @ near @ np.array([1 - p, p])
        assert crop[i, j, 0] == pytest.approx(expected, abs=1e-4)


def test_bytes_and_floats_are_cropped_alike():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    augmentation = Augmentation(0, True, (0.5,), (0.25,), resized_crop=True)
    by_bytes = augmentation.train(jax.random.key(1), images)
    by_floats = augmentation.train(jax.random.key(1), (images / np.float32(255)))
    np.testing.assert_allclose(by_bytes, by_floats, atol=1e-6)


KILLED = """
import sys
from pathlib import Path
import numpy as np
from mnemonics_jax.data import load
from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.sampling import Shuffled
from mnemonics_jax.data.streamed_store import StreamedStore
from mnemonics_jax.runtime.devices import all_devices
from mnemonics_jax.runtime.random_streams import Use, random_stream, root_key
if __name__ == "__main__":
    dataset = load(DataConfig(source="folder", path=sys.argv[1], image_size=8, stream=True))
    store = StreamedStore(dataset.train_images, 2, False, all_devices(), Path(sys.argv[2]))
    order = Shuffled(np.arange(100), random_stream(root_key(0), 0, Use.ORDER), 10, 1000)
    chunks = store.chunks(order, 0, 4, None)
    next(chunks)
    print("first", flush=True)
    next(chunks)
    import time; time.sleep(60)
"""


def children(pid):
    """The processes that `pid` has started, but for the one that cleans up shared memory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            text = path.read_text()
            # The name of a process may hold spaces and brackets.
            if int(text.rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return [child for child in found if b"resource_tracker" not in command(child)]


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_process_that_is_killed(folder, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    words = [sys.executable, str(program), str(folder), str(tmp_path / "scratch")]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.getcwd()}
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout.readline() == "first\n"
        workers = children(parent.pid)
        assert len(workers) == 2
        parent.kill()
    for _ in range(100):
        if not any(command(worker) for worker in workers):
            break
        time.sleep(0.1)
    assert not [worker for worker in workers if command(worker)]
    assert not list((tmp_path / "tmp").iterdir())
    assert list((tmp_path / "scratch").iterdir())
