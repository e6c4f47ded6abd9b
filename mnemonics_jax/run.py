"""A whole run: the loop over phases, with its files, its checkpoints and its way back after an interruption."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from mnemonics_jax import data, together
from mnemonics_jax.checkpoint import Checkpoints, SaveConfig, Saved
from mnemonics_jax.compilations import compilations
from mnemonics_jax.config import Config, flatten
from mnemonics_jax.console import Display
from mnemonics_jax.distributed import agree, first_tells, is_first
from mnemonics_jax.errors import NumbersError, UserError
from mnemonics_jax.files import locked, write_json
from mnemonics_jax.first_phase import EVENT as FIRST_PHASE
from mnemonics_jax.first_phase import FirstPhase
from mnemonics_jax.interrupt import on_sigterm
from mnemonics_jax.journal import Journal, Unwritten, cannot_write, claim_folder, read_json
from mnemonics_jax.metrics import accuracies
from mnemonics_jax.phase import run_phase
from mnemonics_jax.point import Point
from mnemonics_jax.state import PhaseState, Setup, initial_state, make_setup
from mnemonics_jax.training import all_finite


class _RunWatch:
    """Hands a phase's progress to the display, its events to the journal."""

    def __init__(self, display: Display, journal: Journal | Unwritten) -> None:
        self.stage, self.advance, self.warn = display.stage, display.advance, display.warn
        self._journal = journal

    def event(self, name: str, phase: int, **values: Any) -> None:
        self._journal.write({"event": name, "phase": phase, **values})


class _Keeper:
    """Decides which points are saved. Another thread may call `save_last` at any time."""

    def __init__(
        self,
        config: SaveConfig,
        checkpoints: Checkpoints,
        journal: Journal,
        begin: Saved,
        first_phase: FirstPhase | None = None,
    ) -> None:
        self._first_phase = first_phase
        self._config, self._checkpoints, self._journal = config, checkpoints, journal
        self._began, self._compiled = time.monotonic() - begin.seconds, compilations()
        self._least_compiled = begin.compilations
        self._last = self._saved = begin
        self._saved_at = time.monotonic()
        self._lock = threading.Lock()

    def facts(self) -> dict[str, Any]:
        """What the phase in hand has cost so far."""
        compiled = max(self._least_compiled, compilations() - self._compiled)
        return {"seconds": round(time.monotonic() - self._began, 3), "compilations": compiled}

    def keep(self, point: Point) -> None:
        """Takes a point inside a phase; saves it when one is due."""
        self._take(point, self._config.due(point, self._saved.point, time.monotonic() - self._saved_at))
        if self._first_phase:
            self._first_phase.offer(self._last)

    def phase_done(self, state: PhaseState) -> None:
        """Takes and saves the state that a phase has ended with."""
        self._began = time.monotonic()
        self._take(Point(state), True)

    def save_last(self) -> Path | None:
        """Saves the last point taken, if it is not yet, and waits until that is done; the newest checkpoint then."""
        with self._lock:
            if self._last is not self._saved:
                self._save()
            self._checkpoints.wait()
            return self._checkpoints.last

    def _take(self, point: Point, save: bool) -> None:
        with self._lock:
            self._checkpoints.check()
            self._last = Saved(point, list(self._journal.events), **self.facts())
            if save:
                self._save()

    def _save(self) -> None:
        # A last update may have spoilt what had finite losses; the next chunk tells.
        if all_finite(self._last.point):
            self._checkpoints.save(self._last)
            self._saved, self._saved_at = self._last, time.monotonic()


def run(
    config: Config,
    out: Path,
    display: Display,
    save: SaveConfig | None = None,
    *,
    first_phases: Path | None = None,
    load: data.Load = data.load,
) -> dict[str, Any]:
    """Runs `config` in the folder `out`, going on from its last checkpoint if there is one; returns the summary.

    A run without a checkpoint starts from the Θ_0 that another run has left in the folder `first_phases`, where that
    would be the same; the first to train one leaves it there (`FirstPhase`; in a run of one process only). `load`
    delivers the data.
    Raises `UserError` before any training for what cannot work, and when a file cannot be written; `NumbersError` when
    numbers go wrong. SIGTERM saves and ends the process, as `on_sigterm` tells.
    """
    save = save or SaveConfig()
    with ExitStack() as held:
        setup = _common_setup(config, out, save, held, load)
        if (summary := finished(out, display)) is not None:
            return summary
        if setup.group_classes is not None:
            display.say(f"exemplars are learned in groups of {setup.group_classes} classes (--exemplars.group-classes)")
        checkpoints = held.enter_context(Checkpoints(out / "checkpoints", writes=is_first()))
        begin = _begin(setup, checkpoints, display)
        if begin.point.done or begin.point.state.phase:
            display.say(f"going on {begin.point.describe()} of {out}")
        first_phase = None
        if first_phases and jax.process_count() == 1:
            first_phase = FirstPhase(first_phases, setup, display.warn)
            begin = _shared(first_phase, begin, display)
        journal = Journal(out, begin.events) if is_first() else Unwritten()
        keeper = _Keeper(save, checkpoints, journal, begin, first_phase)

        def leave() -> str:
            display.stop()
            saved = keeper.save_last()
            return f"stopped by SIGTERM; the same command goes on from {saved.name if saved else 'the start'}"

        with on_sigterm(leave):
            try:
                state = _phases(setup, begin.point, _RunWatch(display, journal), keeper, journal, display)
            except KeyboardInterrupt:
                keeper.save_last()
                raise
            finally:
                journal.close()
            checkpoints.wait()
        if is_first():
            with cannot_write(out / "summary.json"):
                write_json(out / "summary.json", summarise(setup, state, journal.events))
        agree({})
        return read_json(out / "summary.json")


def _common_setup(config: Config, out: Path, save: SaveConfig, held: ExitStack, load: data.Load) -> Setup:
    """The run's setup, once every process has one of the same configuration and process 0 holds the folder."""
    problem, setup = "", None
    try:
        save.validate()
        setup = make_setup(config, load)
        if is_first():
            held.enter_context(locked(out))
            claim_folder(out, config)
    except UserError as error:
        problem = str(error)
    agree(flatten(config.to_dict()), problem)
    return setup


def _begin(setup: Setup, checkpoints: Checkpoints, display: Display) -> Saved:
    """Where every process goes on: at the newest checkpoint that process 0 finds good, or at the start."""
    start = initial_state(setup)
    begin, problem = None, ""
    try:
        if is_first():
            begin = checkpoints.latest(setup, start, display.warn)
    except UserError as error:
        problem = str(error)
    agree({}, problem)
    name = first_tells(begin.point.name if begin else "")
    if not name:
        return Saved(Point(start), [], 0.0, 0)
    try:
        begin = begin or checkpoints.named(name, setup, start)
    except UserError as error:
        problem = str(error)
    agree({}, problem)
    return begin


def _shared(first_phase: FirstPhase, begin: Saved, display: Display) -> Saved:
    """Where a run goes on that may take a shared Θ_0: there, unless it has come any distance itself."""
    if begin.point.done or begin.point.state.phase or (taken := first_phase.take(begin.point.state)) is None:
        return begin
    display.say(f"phase 0 is trained already, by a run that starts the same ({first_phase.name})")
    return taken


def finished(out: Path, display: Display) -> dict[str, Any] | None:
    """The summary of the run in `out` if it is finished; a damaged one is told to the display and counts as none."""
    path = out / "summary.json"
    try:
        summary = read_json(path) if path.exists() else None
    except UserError:
        display.warn(f"{path} is damaged; it is made anew from the last checkpoint")
        return None
    if summary:
        display.say(f"{out} is finished; this is its summary")
    return summary


def _phases(
    setup: Setup, point: Point, watch: _RunWatch, keeper: _Keeper, journal: Journal, display: Display
) -> PhaseState:
    """The state after the last phase."""
    for phase in range(int(point.state.phase), setup.stream.num_phases):
        together.reach(phase)
        try:
            state = run_phase(setup, point, watch, keeper.keep)
        except NumbersError as error:
            last = keeper.save_last()
            where = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
            raise NumbersError(f"phase {phase}: {error}; {where}; {error.advice}", error.advice) from error
        event = {"event": "phase", "phase": phase, **_phase_results(setup, state, phase), **keeper.facts()}
        journal.write(event)
        keeper.phase_done(state)
        display.phase_done(event)
        point = Point(state)
    return point.state


def _phase_results(setup: Setup, state: PhaseState, phase: int) -> dict[str, Any]:
    stream = setup.stream
    groups = stream.phase_of_class()
    results = {"seen_classes": stream.seen(phase), "memory_bytes": state.memory.num_bytes}
    for name, right in (("accuracy", state.right), ("accuracy_exemplar_model", state.right_exemplar_model)):
        if right[phase, 0] >= 0:
            results[name] = float(accuracies(right[: phase + 1], stream.test_labels, groups).overall[phase])
    return results


def summarise(setup: Setup, state: PhaseState, events: list[dict[str, Any]]) -> dict[str, Any]:
    """summary.json. Percentages are floats from 0 to 100; the matrix has None where a class group was still to come."""
    config, stream = setup.config, setup.stream
    groups = stream.phase_of_class()
    result = accuracies(state.right, stream.test_labels, groups)
    matrix = [[None if g > i else float(v) for g, v in enumerate(row)] for i, row in enumerate(result.matrix)]
    fitted = None
    if config.method.uses_memory:
        fitted = accuracies(state.right_exemplar_model, stream.test_labels, groups)
    phases = [event for event in events if event["event"] == "phase"]
    shared = next((event for event in events if event["event"] == FIRST_PHASE), None)
    return {
        "dataset": setup.stream.dataset.name,
        "method": config.method.name,
        "exemplars": config.exemplars.name if config.method.uses_memory else None,
        "phases": config.stream.phases,
        "seed": config.seed,
        "accuracy": result.overall.tolist(),
        "average_accuracy": result.average,
        "last_accuracy": float(result.overall[-1]),
        "forgetting": result.forgetting,
        "accuracy_matrix": matrix,
        "accuracy_exemplar_model": fitted.overall.tolist() if fitted else None,
        "average_accuracy_exemplar_model": fitted.average if fitted else None,
        "forgetting_exemplar_model": fitted.forgetting if fitted else None,
        "seen_classes": [stream.seen(i) for i in range(stream.num_phases)],
        "memory_bytes": state.memory.num_bytes,
        "memory_dtype": state.memory.images.dtype.name,
        # Each process that worked on the run compiles the same programs, so the most any of them did is the run's own.
        "compilations": max(event["compilations"] for event in phases),
        "seconds": round(sum(event["seconds"] for event in phases), 3),
        # Of a Θ_0 that another run has trained, whose seconds are not among this run's.
        "shared_first_phase": shared and {name: shared[name] for name in ("shared", "seconds")},
        "backend": jax.default_backend(),
        "devices": setup.devices.count,
        "precision": setup.net.dtype or "float32",
    }
