"""Trackers of a run: what they are given, the same when a run goes on, and that none of them stops it."""

import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import events

from mnemonics_jax.config.config import flatten
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.runs.exemplar_grid import exemplar_grid
from mnemonics_jax.runs.metrics_log import MetricsLog, lines_of
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runs.tensorboard import TensorBoard
from mnemonics_jax.runs.tracker import RunName
from mnemonics_jax.runs.tracking import Guarded, open_trackers
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.progress import Display

EVENTS = [
    {"event": "train", "phase": 0, "step": 5, "loss": 2.0},
    {"event": "phase", "phase": 0, "accuracy": 50.0},
    {"event": "train", "phase": 1, "step": 5, "loss": 1.0},
    {"event": "phase", "phase": 1, "accuracy": 40.0},
]
SETTINGS = {"seed": 0, "train.epochs": 3, **{f"more.{n}": n for n in range(120)}}
RESULTS = {"seed": 0, "average_accuracy": 45.0, "accuracy": [50.0, 40.0]}
GRID = np.zeros((8, 8, 3), np.uint8)


class Double:
    """A tracker that keeps what it is given."""

    def __init__(self):
        self.begun, self.shown, self.ended, self.closed = [], [], [], 0

    def begin(self, settings):
        self.begun.append(dict(settings))

    def show(self, scalars):
        self.shown.append(scalars)

    def finish(self, results, images):
        self.ended.append((dict(results), dict(images)))

    def close(self):
        self.closed += 1


@pytest.fixture
def doubles(monkeypatch):
    """Doubles in place of Weights & Biases, by the run's folder and in order of their runs."""
    made = []

    def tracker(name, note):
        made.append(Double())
        note(f"shown: {name.out.name}")
        return made[-1]

    module = SimpleNamespace(check=lambda: None, tracker=tracker)
    monkeypatch.setitem(sys.modules, "mnemonics_jax.runs.wandb_tracker", module)
    return made


def log_run(out, trackers, logged, new, *, finished):
    """Log a run that goes on after the events `logged` with those in `new`."""
    out.mkdir(exist_ok=True)
    metrics_log = MetricsLog(out, logged, SETTINGS, trackers)
    for event in new:
        metrics_log.write(event)
    if finished:
        metrics_log.finish(RESULTS, {"exemplars": GRID})
    metrics_log.close()


def test_a_run_shows_its_settings_curves_results_and_exemplars(tiny, tmp_path, doubles, interrupt):
    config = tiny.config("lwf", "herding", stream={"phases": 1}, train={"epochs": 1})
    run_in_folder(config, tmp_path / "run", Display(), None, ["wandb"])
    interrupt(config, tmp_path / "stopped", phase=1, name="training", track=["wandb"])
    run_in_folder(config, tmp_path / "stopped", Display(), None, ["wandb"])
    whole, stopped, resumed = doubles
    assert [len(double.begun) for double in doubles] == [double.closed for double in doubles] == [1, 1, 1]
    assert whole.begun[0]["train.epochs"] == 1
    assert flatten(config.to_dict()).keys() == whole.begun[0].keys()
    logged = events(tmp_path / "run")
    assert [scalars.name for scalars in whole.shown] == [event["event"] for event in logged]
    assert [scalars.number for scalars in whole.shown] == list(range(len(logged)))
    ((results, images),) = whole.ended
    assert results["result/average_accuracy"] > 0
    # A run that stopped has no results; one that goes on has shown what the whole one has.
    assert not stopped.ended

    def shown(double):
        return [
            (scalars.number, scalars.name, scalars.step, {k: v for k, v in scalars.values.items() if k == "loss"})
            for scalars in double.shown
        ]

    assert shown(resumed) == shown(whole)
    assert images["exemplars"].std() > 0
    np.testing.assert_array_equal(resumed.ended[0][1]["exemplars"], images["exemplars"])


def test_steps_are_counted_over_all_phases(tmp_path):
    double = Double()
    log_run(tmp_path, [double], EVENTS[:2], EVENTS[2:], finished=True)
    assert [tuple(scalars) for scalars in double.shown] == [
        (0, "train", 5, {"loss": 2.0}),
        (1, "phase", 0, {"accuracy": 50.0}),
        (2, "train", 10, {"loss": 1.0}),
        (3, "phase", 1, {"accuracy": 40.0}),
    ]
    assert double.ended[0][0] == {"result/average_accuracy": 45.0}, "numbers alone, and no setting again"


@pytest.mark.parametrize("call", ["begin", "show", "finish", "close"])
def test_a_tracker_that_fails_warns_once_and_stops_nothing(tmp_path, call):
    failing, other, warnings = Double(), Double(), []

    def fail(*_):
        raise ConnectionError("no route to host")

    setattr(failing, call, fail)
    log_run(tmp_path, [Guarded("mlflow", failing, warnings.append), other], [], EVENTS, finished=True)
    assert warnings == ["--track mlflow: no route to host; the run goes on without it"]
    assert (tmp_path / "metrics.jsonl").read_text() == lines_of(EVENTS)
    assert len(other.shown) == len(EVENTS)
    assert other.closed == 1


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_missing_package_is_told_before_anything_is_done(tiny, tmp_path, monkeypatch, service):
    monkeypatch.delitem(sys.modules, f"mnemonics_jax.runs.{service}_tracker", raising=False)
    monkeypatch.setitem(sys.modules, service, None)
    with pytest.raises(UserError, match=re.escape(f'pip install "mnemonics-jax[{service}]"')):
        run_in_folder(tiny.config("lwf", "herding"), tmp_path / "run", Display(), None, [service])
    assert not (tmp_path / "run").exists()


def test_a_damaged_tracking_file_counts_as_none(tmp_path):
    (tmp_path / "tracking.json").write_text("{")
    name = RunName(tmp_path, "wandb")
    assert name.read() is None
    name.write("a")
    RunName(tmp_path, "mlflow").write("b")
    assert (name.read(), RunName(tmp_path, "mlflow").read()) == ("a", "b")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_grid_has_a_row_for_each_class(dtype):
    images = np.zeros((3, 4, 8, 8, 1), dtype)
    images[1, 1] = 1 if dtype == np.float32 else 255
    grid = exemplar_grid(Memory(images, np.array([2, 2, 0], np.int32)))
    assert grid.shape == (2 * 34, 2 * 34, 3), "8 pixels are shown as 32, with a gap; the third class has none"
    assert [grid[at, 16].tolist() for at in (16, 50)] == [[0] * 3] * 2
    assert (grid[50, 50] == 255).all()
    assert (grid[16, 50] == 0).all()
    assert (grid[33] == 255).all()


def test_large_pictures_are_shown_small_and_none_without_exemplars():
    memory = Memory(np.zeros((1, 1, 224, 224, 3), np.uint8), np.ones(1, np.int32))
    assert exemplar_grid(memory).shape == (58, 58, 3)
    assert exemplar_grid(memory._replace(counts=np.zeros(1, np.int32))) is None
    assert exemplar_grid(Memory(np.zeros((1, 1, 8, 8, 2), np.uint8), np.ones(1, np.int32))) is None


class Shown(Display):
    """A display that keeps warnings and notes."""

    def __init__(self):
        super().__init__(quiet=True)
        self.warnings, self.notes = [], []

    def warn(self, message):
        self.warnings.append(message)

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def offline(monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield wandb
    wandb.teardown()


def test_wandb_goes_on_in_the_same_run(tmp_path, offline):
    display, out = Shown(), tmp_path / "a-run"
    log_run(out, open_trackers(["wandb"], out, display), [], EVENTS[:3], finished=False)
    known = RunName(out, "wandb").read()
    log_run(out, open_trackers(["wandb"], out, display), EVENTS[:2], EVENTS[2:], finished=True)
    assert display.warnings == []
    assert RunName(out, "wandb").read() == known
    offline.teardown()  # its own process, which writes the files, ends
    files = sorted((out / "wandb").glob("offline-run-*/run-*.wandb"))
    assert files
    assert {path.name for path in files} == {f"run-{known}.wandb"}
    text = files[-1].read_bytes()
    for word in (b"train/loss", b"train/at", b"phase/accuracy", b"result/average_accuracy", b"train.epochs", b"a-run"):
        assert word in text
    assert len(list((out / "wandb").glob("offline-run-*/files/media/images/exemplars_*.png"))) == 1


def test_wandb_shows_runs_at_the_same_time(tmp_path, offline):
    display, meet = Shown(), threading.Barrier(2, timeout=60)

    class Meeting(Double):
        def show(self, scalars):
            meet.wait()

    outs = [tmp_path / name for name in ("seed0", "seed1")]
    lanes = [
        threading.Thread(
            target=log_run,
            args=(out, [*open_trackers(["wandb"], out, display), Meeting()], [], EVENTS),
            kwargs={"finished": True},
        )
        for out in outs
    ]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert display.warnings == []
    offline.teardown()
    names = [RunName(out, "wandb").read() for out in outs]
    assert names[0] != names[1]
    for out, name in zip(outs, names, strict=True):
        (file,) = (out / "wandb").glob("offline-run-*/run-*.wandb")
        assert file.name == f"run-{name}.wandb"
        assert file.read_bytes().count(b"result/average_accuracy") > 0


def test_without_an_account_wandb_says_how(tiny, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda prompt: prompt)
    with pytest.raises(UserError, match="`wandb login` once, or set WANDB_MODE=offline"):
        run_in_folder(tiny.config("lwf", "herding"), tmp_path / "run", Display(), None, ["wandb"])


@pytest.fixture
def store(monkeypatch, tmp_path):
    """MLflow that writes into the folder mlruns, as it does by default here."""
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient((tmp_path / "mlruns").as_uri())


def test_mlflow_goes_on_in_the_same_run(tmp_path, store):
    display, out = Shown(), tmp_path / "a-run"
    log_run(out, open_trackers(["mlflow"], out, display), [], EVENTS[:3], finished=False)
    known = RunName(out, "mlflow").read()
    assert store.get_run(known).info.status == "KILLED"
    log_run(out, open_trackers(["mlflow"], out, display), EVENTS[:2], EVENTS[2:], finished=True)
    assert display.warnings == []
    assert display.notes == [f"mlflow: run {known} in {store.tracking_uri}"] * 2
    experiment = store.get_experiment_by_name("mnemonics").experiment_id
    (run,) = store.search_runs([experiment])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (known, "a-run", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in SETTINGS.items()}
    assert run.data.metrics == {"train/loss": 1.0, "phase/accuracy": 40.0, "result/average_accuracy": 45.0}
    losses = [(metric.step, metric.value) for metric in store.get_metric_history(known, "train/loss")]
    assert losses == [(5, 2.0), (10, 1.0)], "what was shown before the run went on is there once"
    assert [file.path for file in store.list_artifacts(known)] == ["exemplars.png"]


def test_mlflow_begins_again_where_it_does_not_know_the_run(tmp_path, store):
    display, out = Shown(), tmp_path / "a-run"
    out.mkdir()
    RunName(out, "mlflow").write("0" * 32)
    log_run(out, open_trackers(["mlflow"], out, display), EVENTS, [], finished=True)
    assert display.warnings == []
    run = store.get_run(RunName(out, "mlflow").read())
    assert run.data.metrics["phase/accuracy"] == 40.0


def test_a_folder_named_like_an_address_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("gs:x")
    folder.mkdir()
    board = TensorBoard(folder / "tensorboard")
    board.begin({})
    board.close()
    assert len(list((tmp_path / "gs:x" / "tensorboard").iterdir())) == 1
