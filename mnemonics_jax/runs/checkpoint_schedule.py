"""When a run is saved: after each phase, inside a phase as often as `SaveConfig` says, and when the run is stopped."""

import threading
import time
from pathlib import Path
from typing import Any

from mnemonics_jax.phase.state import PhaseState, ResumePoint, Stage
from mnemonics_jax.runs.base_model_cache import BaseModelCache
from mnemonics_jax.runs.checkpoint import Checkpoint, CheckpointFolder
from mnemonics_jax.runs.metrics_log import MetricsLog, NullLog
from mnemonics_jax.runs.record import Record
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runtime.compile_cache import num_compilations
from mnemonics_jax.runtime.finite import all_finite
from mnemonics_jax.runtime.signals import uninterrupted


class CheckpointSchedule:
    """The schedule of a run's checkpoints: it receives every resume point and saves those that are due.

    `start` is the checkpoint that the run starts from. Another thread may call `save_last` at any time.
    """

    def __init__(
        self,
        config: SaveConfig,
        checkpoints: CheckpointFolder,
        metrics_log: MetricsLog | NullLog,
        start: Checkpoint,
        base_models: BaseModelCache | None = None,
    ) -> None:
        self._config, self._checkpoints, self._metrics_log = config, checkpoints, metrics_log
        self._base_models = base_models
        self._phase_start, self._compiled = time.monotonic() - start.seconds, num_compilations()
        self._least_compiled = start.compilations
        self._last = self._last_saved = start
        self._saved_at = time.monotonic()
        self._lock = threading.Lock()

    @property
    def record(self) -> Record:
        """The record of the run (`Record`)."""
        return self._last.record

    def facts(self) -> dict[str, Any]:
        """Return the cost of the current phase so far: `seconds` and `compilations`."""
        compiled = max(self._least_compiled, num_compilations() - self._compiled)
        return {"seconds": round(time.monotonic() - self._phase_start, 3), "compilations": compiled}

    def offer(self, resume_point: ResumePoint) -> None:
        """Receive a resume point inside a phase, and save it when a checkpoint is due."""
        self._record(
            resume_point,
            is_due(self._config, resume_point, self._last_saved.resume_point, time.monotonic() - self._saved_at),
        )
        if self._base_models:
            self._base_models.save(self._last)

    def phase_done(self, state: PhaseState) -> None:
        """Receive the state at the end of a phase, and save it."""
        self._phase_start = time.monotonic()
        self._record(ResumePoint(state), True)

    def save_last(self) -> Path | None:
        """Save the last resume point if it is not saved yet, wait for it, and return the newest checkpoint's path."""
        with uninterrupted(), self._lock:
            if self._last is not self._last_saved:
                self._save()
            self._checkpoints.wait()
            return self._checkpoints.last

    def _record(self, resume_point: ResumePoint, save: bool) -> None:
        with uninterrupted(), self._lock:
            self._checkpoints.check()
            self._last = Checkpoint(
                resume_point, list(self._metrics_log.events), **self.facts(), record=self._last.record
            )
            if save:
                self._save()

    def _save(self) -> None:
        # The losses of a chunk may be finite and its last update not; the next chunk raises the error.
        if all_finite(self._last.resume_point):
            self._checkpoints.save(self._last)
            self._last_saved, self._saved_at = self._last, time.monotonic()


def is_due(config: SaveConfig, current: ResumePoint, last: ResumePoint, seconds: float) -> bool:
    """Return whether to save the resume point `current`; `last` was saved `seconds` ago."""
    same = (last.state.phase, last.stage, last.part) == (current.state.phase, current.stage, current.part)
    done = last.done if same else 0
    trains = current.stage in (Stage.TRAINING, Stage.BALANCED)
    every = config.every_steps if trains else config.every_outer_steps
    return current.done - done >= every and seconds >= config.min_seconds
