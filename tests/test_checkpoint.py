"""Checkpoints that were damaged, could not be written, or were never finished."""

import json
import os
import re
import resource
import shutil
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from mnemonics_jax import run as runs
from mnemonics_jax.checkpoint import Checkpoints, SaveConfig, Saved
from mnemonics_jax.console import Display
from mnemonics_jax.errors import UserError
from mnemonics_jax.files import Damaged, unseal
from mnemonics_jax.point import Point
from mnemonics_jax.run import run
from mnemonics_jax.state import initial_state, make_setup

# Orbax tells an event loop of its own, which a failed write has closed, that the write has failed.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")

OFTEN = SaveConfig(every_steps=8, every_outer_steps=3, min_seconds=0.0)


class Listening(Display):
    """Keeps what the user would read."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, message):
        self.said.append(message)


@pytest.fixture(scope="module")
def config(tiny):
    return tiny.config("icarl", "mnemonics", train={"epochs": 2}, stream={"phases": 1})


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory):
    """The folder of a run that a Ctrl-C stopped while it learned the exemplars of its last phase."""
    out = tmp_path_factory.mktemp("stopped") / "run"

    class Interrupting(Display):
        def stage(self, phase, name, total):
            self.armed = (phase, name) == (1, "exemplars")

        def advance(self, done, **values):
            if self.armed and done == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, out, Interrupting(), OFTEN)
    return out


@pytest.fixture(scope="module")
def finished(config, stopped, tmp_path_factory):
    """What the run leaves when nothing happens to it: its summary and its metrics, both without times."""
    out = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(stopped, out)
    run(config, out, Display(), OFTEN)
    return result(out)


def result(out):
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    values = [json.loads((out / "summary.json").read_text()), *events]
    return [{k: v for k, v in value.items() if k not in ("seconds", "compilations")} for value in values]


def names(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_kept_are_the_last_two_and_the_start_of_each_phase(stopped):
    # The Ctrl-C came after outer step 6 but before that point was handed over, so step 3 is the last.
    assert names(stopped) == ["0001-0-begin", "0001-0-training-0000-00000024", "0001-1-exemplars-0000-00000003"]


@pytest.fixture
def copy(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def files(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def biggest(checkpoint):
    return max(files(checkpoint), key=lambda path: path.stat().st_size)


def cut(checkpoint):
    path = biggest(checkpoint)
    os.truncate(path, path.stat().st_size // 2)
    return path


def empty(checkpoint):
    path = biggest(checkpoint)
    os.truncate(path, 0)
    return path


def flip(checkpoint):
    path = biggest(checkpoint)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def remove(checkpoint):
    path = biggest(checkpoint)
    path.unlink()
    return path


def flip_manifest(checkpoint):
    path = checkpoint / "manifest.json"
    path.write_text(path.read_text().replace('"done": 3', '"done": 6'))
    return path


def cut_manifest(checkpoint):
    path = checkpoint / "manifest.json"
    os.truncate(path, 100)
    return path


def remove_manifest(checkpoint):
    path = checkpoint / "manifest.json"
    path.unlink()
    return path


def cut_metrics(checkpoint):
    path = checkpoint / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - 10)
    return path


DAMAGES = [
    (cut, r"has \d+ bytes instead of \d+"),
    (empty, r"has 0 bytes instead of \d+"),
    (flip, "has changed bytes"),
    (remove, "cannot be read"),
    (flip_manifest, "is damaged"),
    (cut_manifest, "is damaged"),
    (remove_manifest, "cannot be read"),
    (cut_metrics, r"has \d+ bytes instead of \d+"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(config, copy, finished, damage, message):
    path = damage(copy / "checkpoints" / "0001-1-exemplars-0000-00000003")
    display = Listening()
    run(config, copy, display, OFTEN)
    (warning,) = [line for line in display.said if line.startswith("warning: damaged")]
    assert warning.startswith(f"warning: damaged checkpoint: {path} ")
    assert re.search(message, warning)
    assert warning.endswith("going back to 0001-0-training-0000-00000024")
    assert any(line.startswith("going on from phase 1, training, step 24") for line in display.said)
    assert result(copy) == finished


def test_every_file_of_a_checkpoint_is_guarded(stopped, tmp_path):
    shutil.copytree(stopped / "checkpoints" / "0001-1-exemplars-0000-00000003", tmp_path / "one")
    assert unseal(tmp_path / "one")["done"] == 3
    for path in files(tmp_path / "one"):
        content = path.read_bytes()
        if not content:
            continue
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(Damaged, match=path.name):
            unseal(tmp_path / "one")
        path.write_bytes(content)
    unseal(tmp_path / "one")


def test_without_a_good_checkpoint_nothing_is_changed(config, copy):
    paths = [flip(path) for path in (copy / "checkpoints").iterdir()]
    before = {path: path.read_bytes() for path in files(copy) if path.name != "lock"}
    with pytest.raises(UserError, match=r"no checkpoint in .* is good, and nothing was changed") as caught:
        run(config, copy, Display(), OFTEN)
    assert all(str(path) in str(caught.value) for path in paths)
    assert {path: path.read_bytes() for path in files(copy) if path.name != "lock"} == before


def test_a_write_that_was_never_finished_is_no_damage(config, copy, finished):
    newest = copy / "checkpoints" / "0001-1-exemplars-0000-00000003"
    remove_manifest(newest)
    newest.rename(newest.with_name(newest.name + ".part"))
    display = Listening()
    run(config, copy, display, OFTEN)
    assert not [line for line in display.said if "damaged" in line]
    assert result(copy) == finished
    assert not [name for name in names(copy) if name.endswith(".part")]


@pytest.mark.parametrize("text", ['{"event": "tra', "", "\x00\xff\x00", '{"event": "train"}\nnot json\n'])
def test_metrics_are_repaired(config, copy, finished, text):
    path = copy / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:150] + text.encode("latin-1"))
    run(config, copy, Display(), OFTEN)
    assert result(copy) == finished


@pytest.mark.parametrize("content", [b"", b'{"accuracy": [9', b"[]", b"\xff\xfe"])
def test_a_damaged_summary_is_made_anew(config, copy, finished, content):
    run(config, copy, Display(), OFTEN)
    (copy / "summary.json").write_bytes(content)
    display = Listening()
    run(config, copy, display, OFTEN)
    assert display.said[0].endswith("summary.json is damaged; it is made anew from the last checkpoint")
    assert result(copy) == finished


@contextmanager
def room_for(size):
    """No file may grow beyond `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# The biggest file of a checkpoint has some 20 KB, so the first stops Orbax and the second the manifest or the metrics.
@pytest.mark.parametrize("size", [2500, 40])
def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before(config, copy, finished, size):
    before = {path: path.read_bytes() for path in files(copy / "checkpoints")}
    with room_for(size), pytest.raises(UserError, match=r"File too large|could not be written") as caught:
        run(config, copy, Display(), OFTEN)
    assert "make room" in str(caught.value)
    assert {path: path.read_bytes() for path in files(copy / "checkpoints")} == before
    assert not (copy / "summary.json").exists()
    display = Listening()
    run(config, copy, display, OFTEN)
    assert display.said[0].startswith("going on from phase 1, exemplars, step 3")
    assert result(copy) == finished


def test_a_write_that_fails_in_the_background_is_not_listed(config, tmp_path):
    setup = make_setup(config)
    state = initial_state(setup)
    # Numbers that do not compress, more of them than there is room for.
    noise = np.random.default_rng(0).integers(0, 256, (400, *state.memory.images.shape[1:]), np.uint8)
    big = state._replace(memory=state.memory._replace(images=noise))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Saved(Point(state), [], 0.0, 0))
        checkpoints.wait()
        with room_for(60_000):
            checkpoints.save(Saved(Point(big._replace(phase=np.asarray(1, np.int32))), [], 0.0, 0))
            with pytest.raises(UserError, match=r"0001-0-begin could not be written .*0000-0-begin is intact"):
                checkpoints.wait()
        assert [path.name for path in tmp_path.iterdir()] == ["0000-0-begin"]
        assert checkpoints.last.name == "0000-0-begin"


def test_what_is_saved_is_finite(config, tmp_path, monkeypatch):
    points = []

    def spoil(setup, point, watch, keep):
        keep(Point(point.state, done=8, work=None))
        nans = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), point.state.variables)
        keep(Point(point.state._replace(variables=nans), done=16, work=None))
        points.append(point)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run_phase", spoil)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, Display(), OFTEN)
    assert points
    assert names(tmp_path) == ["0000-0-training-0000-00000008"]
