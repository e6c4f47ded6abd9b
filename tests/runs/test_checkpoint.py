"""Checkpoints that were damaged, could not be written, or were never finished."""

import os
import re
import resource
import shutil
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

import jax
import numpy as np
import pytest
from helpers import OFTEN, Listening, newer_format, result, rewrite_manifest, without_format

from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.phase.state import ResumePoint, initial_state
from mnemonics_jax.runs import runner as runs
from mnemonics_jax.runs.checkpoint import Checkpoint, CheckpointFolder
from mnemonics_jax.runs.record import record_of
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.folders import FORMAT, CorruptedError, FormatError, verify_manifest
from mnemonics_jax.runtime.progress import Display

# Orbax tells an event loop of its own, which a failed write has closed, that the write has failed.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def config(tiny):
    return tiny.config("icarl", "mnemonics", train={"epochs": 2}, stream={"phases": 1})


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory, interrupt):
    """The folder of a run that a Ctrl-C stopped while it learned the exemplars of its last phase."""
    out = tmp_path_factory.mktemp("stopped") / "run"

    interrupt(config, out, OFTEN, phase=1, name="exemplars", step=6)
    return out


@pytest.fixture(scope="module")
def finished(config, stopped, tmp_path_factory):
    """What the run leaves when nothing happens to it: its summary and its metrics, both without times."""
    out = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(stopped, out)
    run_in_folder(config, out, Display(), OFTEN)
    return result(out)


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
    run_in_folder(config, copy, display, OFTEN)
    (warning,) = [line for line in display.said if line.startswith("warning: damaged")]
    assert warning.startswith(f"warning: damaged checkpoint: {path} ")
    assert re.search(message, warning)
    assert warning.endswith("going back to 0001-0-training-0000-00000024")
    assert any(line.startswith("going on from phase 1, training, step 24") for line in display.said)
    assert result(copy) == finished


def test_every_file_of_a_checkpoint_is_guarded(stopped, tmp_path):
    shutil.copytree(stopped / "checkpoints" / "0001-1-exemplars-0000-00000003", tmp_path / "one")
    assert verify_manifest(tmp_path / "one")["done"] == 3
    for path in files(tmp_path / "one"):
        content = path.read_bytes()
        if not content:
            continue
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(CorruptedError, match=path.name):
            verify_manifest(tmp_path / "one")
        path.write_bytes(content)
    verify_manifest(tmp_path / "one")


def test_without_a_good_checkpoint_nothing_is_changed(config, copy):
    paths = [flip(path) for path in (copy / "checkpoints").iterdir()]
    before = {path: path.read_bytes() for path in files(copy) if path.name != "lock"}
    with pytest.raises(UserError, match=r"no checkpoint in .* is good, and nothing was changed") as caught:
        run_in_folder(config, copy, Display(), OFTEN)
    assert all(str(path) in str(caught.value) for path in paths)
    assert {path: path.read_bytes() for path in files(copy) if path.name != "lock"} == before


@pytest.mark.parametrize("newest", [None, flip], ids=["newest", "behind a damaged one"])
@pytest.mark.parametrize(
    ("change", "how"),
    [(newer_format, f"in format {FORMAT + 1} by a newer"), (without_format, "without a format number by an older")],
)
def test_a_checkpoint_of_another_format_stops_the_run_and_stays(config, copy, change, how, newest):
    names = ["0001-1-exemplars-0000-00000003", "0001-0-training-0000-00000024"]
    if newest:
        newest(copy / "checkpoints" / names.pop(0))
    other = copy / "checkpoints" / names[0]
    rewrite_manifest(other, change)
    before = {path: path.read_bytes() for path in files(copy) if path.name != "lock"}
    message = (
        f"{other} was written {how} version of mnemonics_jax; this one reads format {FORMAT}: use the version that"
    )
    for _ in range(2):
        with pytest.raises(UserError, match=f"^{message}"):
            run_in_folder(config, copy, Display(), OFTEN)
    assert {path: path.read_bytes() for path in files(copy) if path.name != "lock"} == before


def test_every_way_to_read_a_checkpoint_knows_of_formats(config, copy):
    setup = make_setup(config)
    like = initial_state(setup)
    rewrite_manifest(copy / "checkpoints" / "0001-0-begin", newer_format)
    with CheckpointFolder(copy / "checkpoints", writes=False) as checkpoints:
        for read in (
            lambda: checkpoints.latest(setup, like, pytest.fail, between_phases=True),
            lambda: checkpoints.named("0001-0-begin", setup, like),
            lambda: checkpoints.after(0, setup, like),
        ):
            with pytest.raises(FormatError, match=f"0001-0-begin was written in format {FORMAT + 1}"):
                read()


def test_a_write_that_was_never_finished_is_no_damage(config, copy, finished):
    newest = copy / "checkpoints" / "0001-1-exemplars-0000-00000003"
    remove_manifest(newest)
    newest.rename(newest.with_name(newest.name + ".part"))
    display = Listening()
    run_in_folder(config, copy, display, OFTEN)
    assert not [line for line in display.said if "damaged" in line]
    assert result(copy) == finished
    assert not [name for name in names(copy) if name.endswith(".part")]


@pytest.mark.parametrize("text", ['{"event": "tra', "", "\x00\xff\x00", '{"event": "train"}\nnot json\n'])
def test_metrics_are_repaired(config, copy, finished, text):
    path = copy / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:150] + text.encode("latin-1"))
    run_in_folder(config, copy, Display(), OFTEN)
    assert result(copy) == finished


@pytest.mark.parametrize("content", [b"", b'{"accuracy": [9', b"[]", b"\xff\xfe"])
def test_a_damaged_summary_is_made_anew(config, copy, finished, content):
    run_in_folder(config, copy, Display(), OFTEN)
    (copy / "summary.json").write_bytes(content)
    display = Listening()
    run_in_folder(config, copy, display, OFTEN)
    assert display.said[0].endswith("summary.json is damaged; it is written again from the last checkpoint")
    assert result(copy) == finished


@contextmanager
def room_for(size):
    """No file may grow beyond `size` bytes, as on a disk that is full; what is printed meanwhile goes nowhere."""
    # The limit would hold as well for the files in which pytest, or whoever started it, keeps what is printed.
    with ExitStack() as outputs:
        nowhere = outputs.enter_context(open(os.devnull, "w"))
        outputs.enter_context(redirect_stdout(nowhere))
        outputs.enter_context(redirect_stderr(nowhere))
        for descriptor in (1, 2):
            before = os.dup(descriptor)
            outputs.callback(os.close, before)
            outputs.callback(os.dup2, before, descriptor)
            os.dup2(nowhere.fileno(), descriptor)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        outputs.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        yield


def finished_files(folder):
    """The files of finished checkpoints: threads of Orbax may still write into a draft whose first write has failed."""
    return {path: path.read_bytes() for path in files(folder) if ".part" not in str(path.relative_to(folder))}


# The biggest file of a checkpoint has some 20 KB, so the first stops Orbax and the second the manifest or the metrics.
@pytest.mark.parametrize("size", [2500, 40])
def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before(config, copy, finished, size):
    before = finished_files(copy / "checkpoints")
    with room_for(size), pytest.raises(UserError, match=r"File too large|could not be written") as caught:
        run_in_folder(config, copy, Display(), OFTEN)
    assert "free disk space" in str(caught.value)
    assert finished_files(copy / "checkpoints") == before
    assert not (copy / "summary.json").exists()
    display = Listening()
    run_in_folder(config, copy, display, OFTEN)
    assert any(line.startswith("going on from phase 1, exemplars, step 3") for line in display.said)
    assert result(copy) == finished
    assert not list((copy / "checkpoints").glob("*.part"))


def test_a_write_that_fails_in_the_background_is_not_listed(config, tmp_path):
    setup = make_setup(config)
    state = initial_state(setup)
    # Numbers that do not compress, more of them than there is room for.
    noise = np.random.default_rng(0).integers(0, 256, (400, *state.memory.images.shape[1:]), np.uint8)
    big = state._replace(memory=state.memory._replace(images=noise))
    with CheckpointFolder(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint(ResumePoint(state), [], 0.0, 0, record_of(setup)))
        checkpoints.wait()
        with room_for(60_000):
            checkpoints.save(
                Checkpoint(ResumePoint(big._replace(phase=np.asarray(1, np.int32))), [], 0.0, 0, record_of(setup))
            )
            with pytest.raises(UserError, match=r"0001-0-begin could not be written .*0000-0-begin is intact"):
                checkpoints.wait()
        assert [path.name for path in tmp_path.iterdir()] == ["0000-0-begin"]
        assert checkpoints.last.name == "0000-0-begin"


def test_what_is_saved_is_finite(config, tmp_path, monkeypatch):
    points = []

    def spoil(setup, point, callbacks):
        callbacks.checkpoint(ResumePoint(point.state, done=8, loop_state=None))
        nans = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), point.state.variables)
        callbacks.checkpoint(ResumePoint(point.state._replace(variables=nans), done=16, loop_state=None))
        points.append(point)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run_phase", spoil)
    with pytest.raises(KeyboardInterrupt):
        run_in_folder(config, tmp_path, Display(), OFTEN)
    assert points
    assert names(tmp_path) == ["0000-0-training-0000-00000008"]


@pytest.mark.parametrize("what", ["file for the newest", "stray draft", "folder for a draft of summary.json"])
def test_what_lies_in_the_way_of_a_checkpoint_is_removed(config, copy, finished, what):
    newest = copy / "checkpoints" / "0001-1-exemplars-0000-00000003"
    if what == "file for the newest":
        shutil.rmtree(newest)
        newest.write_text("not a folder")
    elif what == "stray draft":
        (copy / "checkpoints" / "0002-0-begin.part").write_text("not a folder")
    else:
        (copy / "summary.json.part").mkdir()
    run_in_folder(config, copy, Display(), OFTEN)
    assert result(copy) == finished
    assert not list(copy.rglob("*.part"))
