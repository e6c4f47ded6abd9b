"""A whole run in a folder: the loop over phases, its files, its checkpoints, and how it resumes."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax

from mnemonics_jax import data
from mnemonics_jax.config.config import Config, flatten
from mnemonics_jax.phase.evaluation import accuracies
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState, ResumePoint
from mnemonics_jax.runs.base_model_cache import BaseModelCache
from mnemonics_jax.runs.checkpoint import CheckpointFolder
from mnemonics_jax.runs.checkpoint_schedule import CheckpointSchedule
from mnemonics_jax.runs.exemplar_grid import exemplar_grid
from mnemonics_jax.runs.facts import planned_steps, run_facts
from mnemonics_jax.runs.metrics_log import MetricsLog, NullLog
from mnemonics_jax.runs.preemption import on_sigterm
from mnemonics_jax.runs.record import Record, read_record, record_of
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.start import common_setup, from_base_model, starting_checkpoint
from mnemonics_jax.runs.summary import read_summary, summarise, write_summary
from mnemonics_jax.runs.tracker import Service
from mnemonics_jax.runs.tracking import open_trackers
from mnemonics_jax.runtime import lockstep
from mnemonics_jax.runtime.distributed import is_primary, require_agreement
from mnemonics_jax.runtime.errors import NumbersError, UserError
from mnemonics_jax.runtime.folders import FormatError
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.runtime.signals import stop_reason


class _RunCallbacks:
    """The callbacks of a run: progress to the display, events to the log, resume points to the checkpoint schedule."""

    def __init__(self, display: Display, metrics_log: MetricsLog | NullLog, schedule: CheckpointSchedule) -> None:
        self.stage, self.advance, self.warn = display.stage, display.advance, display.warn
        self.checkpoint, self._metrics_log = schedule.offer, metrics_log

    def event(self, name: str, phase: int, **values: Any) -> None:
        """Write an event to the metrics log."""
        self._metrics_log.write({"event": name, "phase": phase, **values})


def run_in_folder(
    config: Config,
    out: Path,
    display: Display,
    save: SaveConfig | None = None,
    track: Sequence[Service] = (),
    *,
    base_models: Path | None = None,
    load: data.Load = data.load,
) -> dict[str, Any]:
    """Run `config` in the folder `out`, from its last checkpoint if there is one, and return the summary.

    SIGTERM saves the run and ends the process (`on_sigterm`).

    Args:
        config: the configuration of the run.
        out: the folder of the run.
        display: shows progress and warnings.
        save: how often to save inside a phase.
        track: the services that show the run, beside TensorBoard.
        base_models: a folder of base models that runs share (`BaseModelCache`); a run of several processes ignores it.
        load: loads the data set.

    Raises:
        UserError: before any training, for settings that cannot work; when a file cannot be written.
        NumbersError: when a loss or gradient is not finite.
    """
    save = save or SaveConfig()
    with ExitStack() as resources:
        setup, check_still_there = common_setup(config, out, save, track, resources, load)
        record = record_of(setup, begins=True)
        if (summary := finished(out, display, record)) is not None:
            return summary
        _show_plan(setup, out, display)
        checkpoints = resources.enter_context(
            CheckpointFolder(out / "checkpoints", writes=is_primary(), check_before=check_still_there)
        )
        start = starting_checkpoint(setup, checkpoints, display, record)
        if start.resume_point.done or start.resume_point.state.phase:
            display.note(f"going on {start.resume_point.describe()} of {out}")
        cache = None
        if base_models and jax.process_count() == 1:
            cache = BaseModelCache(base_models, setup, display.warn)
            start = from_base_model(cache, start, display)
        metrics_log = NullLog()
        if is_primary():
            trackers = open_trackers(track, out, display)
            metrics_log = MetricsLog(out, start.events, flatten(setup.config.to_dict()), trackers)
        schedule = CheckpointSchedule(save, checkpoints, metrics_log, start, cache)
        state = _saved_phases(setup, start.resume_point, schedule, metrics_log, display)
        if is_primary():
            check_still_there()
            write_summary(out, summarise(setup, state, metrics_log.events, start.record))
        require_agreement({})
        return read_summary(out)


def _show_plan(setup: Setup, out: Path, display: Display) -> None:
    """Show what the run computes, from what, and with how many steps."""
    if not display.many_runs:
        display.header(run_facts(setup, out))
    display.plan(planned_steps(setup))
    if setup.group_classes is not None:
        display.note(f"exemplars are learned in groups of {setup.group_classes} classes (--exemplars.group-classes)")


def _saved_phases(
    setup: Setup,
    resume_point: ResumePoint,
    schedule: CheckpointSchedule,
    metrics_log: MetricsLog | NullLog,
    display: Display,
) -> PhaseState:
    """Run the phases from `resume_point` on, and save the last point, also on SIGTERM and Ctrl-C."""
    with on_sigterm(partial(_leave, schedule, display)):
        try:
            state = _phases(setup, resume_point, schedule, metrics_log, display)
        except KeyboardInterrupt:
            schedule.save_last()
            raise
        finally:
            metrics_log.close()
        schedule.save_last()
    return state


def _leave(schedule: CheckpointSchedule, display: Display) -> str:
    """Save the last point of a run and return the message that it ends with."""
    display.stop()
    path = schedule.save_last()
    # Only the process that saves knows the name.
    saved = path.name if path else "the start" if is_primary() else "the last checkpoint"
    return f"{stop_reason()}; the same command goes on from {saved}"


def finished(out: Path, display: Display, record: Record | None = None) -> dict[str, Any] | None:
    """Return the summary of the run in `out`, or None when it is not finished or the summary is damaged.

    Raises:
        UserError: when the summary is that of a run with other settings or on other data than `record` says.
    """
    path = out / "summary.json"
    if not path.exists():
        return None
    try:
        summary = read_summary(out)
    except FormatError:
        raise
    except UserError as error:
        display.warn(f"{error}; it is written again from the last checkpoint")
        return None
    if record is not None:
        record.check(read_record(summary), str(path))
    display.note(f"{out} is finished; this is its summary")
    return summary


def _phases(
    setup: Setup,
    resume_point: ResumePoint,
    schedule: CheckpointSchedule,
    metrics_log: MetricsLog | NullLog,
    display: Display,
) -> PhaseState:
    """Run the phases from `resume_point` on, and return the state after the last one."""
    callbacks = _RunCallbacks(display, metrics_log, schedule)
    for phase in range(int(resume_point.state.phase), setup.stream.num_phases):
        lockstep.enter_phase(phase)
        try:
            state = run_phase(setup, resume_point, callbacks)
        except NumbersError as error:
            last = schedule.save_last()
            where = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
            raise NumbersError(f"phase {phase}: {error}; {where}; {error.advice}", error.advice) from error
        event = {"event": "phase", "phase": phase, **_phase_results(setup, state, phase), **schedule.facts()}
        metrics_log.write(event)
        schedule.phase_done(state)
        display.phase_done(event)
        resume_point = ResumePoint(state)
    if is_primary():
        results = summarise(setup, resume_point.state, metrics_log.events, schedule.record)
        grid = exemplar_grid(resume_point.state.memory)
        metrics_log.finish(results, {} if grid is None else {"exemplars": grid})
    return resume_point.state


def _phase_results(setup: Setup, state: PhaseState, phase: int) -> dict[str, Any]:
    """Return the values of the event of a finished phase; accuracies are percentages."""
    stream = setup.stream
    groups = stream.phase_of_class()
    results = {"seen_classes": stream.seen(phase), "memory_bytes": setup.memory_bytes(state.memory)}
    counts = {"accuracy": state.num_correct, "accuracy_exemplar_model": state.num_correct_exemplar_model}
    for name, num_correct in counts.items():
        if num_correct[phase, 0] >= 0:
            results[name] = float(accuracies(num_correct[: phase + 1], stream.test_labels, groups).overall[phase])
    return results
