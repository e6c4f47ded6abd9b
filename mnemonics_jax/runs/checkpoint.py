"""The checkpoints of a run: written in the background, verified by checksums, and restored from the newest good one."""

import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState, ResumePoint, Stage, loop_state_like
from mnemonics_jax.runs.metrics_log import lines_of, read_metrics
from mnemonics_jax.runs.record import KEY, Record, read_record, record_of
from mnemonics_jax.runtime.array_files import restore_arrays, save_arrays
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import write_atomically
from mnemonics_jax.runtime.folders import (
    CorruptedError,
    atomic_folder,
    remove_drafts,
    remove_folder,
    verify_manifest,
)

_KEPT = 2
_BEGIN = "-begin"
_NAME = re.compile(r"\d{4}-\d-[a-z]+(-\d{4}-\d{8})?")


class Checkpoint(NamedTuple):
    """The content of a checkpoint: a resume point, the events logged up to it, the cost of the run so far, its record.

    `seconds` is the time spent in the phase of the resume point. `compilations` is the largest number of programs that
    one process of the run has compiled.
    """

    resume_point: ResumePoint
    events: list[dict[str, Any]]
    seconds: float
    compilations: int
    record: Record


class CheckpointFolder:
    """The checkpoints of a run, one folder each; use it as a context manager.

    Each checkpoint is written in the background as an `atomic_folder`. The last two, and those at the start of a phase,
    are kept; older ones are removed.

    Only one of several processes `writes`, since the checkpoint is the same in all of them. All processes read it.
    `check_before` is called before each checkpoint is written; it may raise `UserError`.
    """

    def __init__(self, folder: Path, *, writes: bool = True, check_before: Callable[[], None] | None = None) -> None:
        self.folder, self._writes, self._check_before = folder.absolute(), writes, check_before
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._last: str | None = None
        self._damaged: list[Path] = []

    def __enter__(self) -> "CheckpointFolder":
        return self

    def __exit__(self, failure: type | None, *_: object) -> None:
        try:
            self.wait()
        except UserError:
            # The error that ended the block is more important.
            if failure is None:
                raise
        finally:
            self._thread.shutdown()

    @property
    def last(self) -> Path | None:
        """Path of the newest checkpoint that this object has written or restored."""
        return self.folder / self._last if self._last else None

    def save(self, checkpoint: Checkpoint) -> None:
        """Start to write a checkpoint in the background. Its arrays must not be changed in place.

        Raises:
            UserError: when the previous checkpoint could not be written; `wait` and `check` raise it for this one.
        """
        if not self._writes:
            return
        self.wait()
        resume_point = checkpoint.resume_point
        tree = {"state": resume_point.state._asdict(), "loop_state": resume_point.loop_state}
        arrays = jax.tree.map(np.asarray, tree)
        self._pending = self._thread.submit(self._write, checkpoint, arrays)

    def wait(self) -> None:
        """Wait until the last checkpoint is written. Raise `UserError` when that failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raise `UserError` when the last write has failed; do not wait for a write in progress."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def latest(
        self, setup: Setup, like: PhaseState, warn: Callable[[str], None], *, between_phases: bool = False
    ) -> Checkpoint | None:
        """Return the newest good checkpoint, or None when there is no checkpoint.

        Args:
            setup: the run's setup.
            like: any state of the run, for the structure, shapes and dtypes of its arrays.
            warn: receives a message for each newer damaged checkpoint; the next `save` removes those.
            between_phases: whether to skip the checkpoints inside a phase.

        Raises:
            UserError: when all checkpoints are damaged; for one of a run with other settings or on other data.
            FormatError: for a checkpoint in another format; it is not skipped, as a damaged one is.
        """
        damages = []
        for path in self._finished()[::-1]:
            if between_phases and not path.name.endswith(_BEGIN):
                continue
            try:
                checkpoint = self._restore(path, setup, like)
            except CorruptedError as error:
                damages.append((path, str(error)))
                continue
            for _, message in damages:
                warn(f"damaged checkpoint: {message}; going back to {path.name}")
            self._damaged = [bad for bad, _ in damages]
            self._last = path.name
            return checkpoint
        if damages:
            listed = "".join(f"\n  {message}" for _, message in damages)
            raise UserError(
                f"no checkpoint in {self.folder} is good, and nothing was changed:{listed}\n"
                "restore one from a copy, or choose another --out for a new run"
            )
        return None

    def named(self, name: str, setup: Setup, like: PhaseState) -> Checkpoint:
        """Return the checkpoint `name`. Raise `UserError` when this process finds it missing or damaged."""
        try:
            return self._restore(self.folder / name, setup, like)
        except CorruptedError as error:
            raise UserError(f"{error}: every process has to see the same --out") from error

    def after(self, phase: int, setup: Setup, like: PhaseState) -> PhaseState:
        """Return the state at the end of `phase`. Raise `UserError` when that checkpoint is missing or damaged."""
        end = ResumePoint(like._replace(phase=np.asarray(phase + 1, np.int32)))
        try:
            return self._restore(self.folder / end.name, setup, like).resume_point.state
        except CorruptedError as error:
            raise UserError(str(error)) from error

    def _restore(self, path: Path, setup: Setup, like: PhaseState) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            CorruptedError: when it is damaged.
            UserError: when it belongs to a run with other settings or on other data, or is in another format.
        """
        facts = verify_manifest(path)
        record = read_record(facts)
        record_of(setup).check(record, str(path))
        stage, done = Stage(facts["stage"]), facts["done"]
        target = {"state": like._asdict(), "loop_state": loop_state_like(setup, like, stage, done)}
        arrays = restore_arrays(path / "arrays", target)
        resume_point = ResumePoint(PhaseState(**arrays["state"]), stage, done, arrays["loop_state"], facts["part"])
        events = read_metrics(path / "metrics.jsonl")
        return Checkpoint(resume_point, events, facts["seconds"], facts["compilations"], record)

    def _finished(self) -> list[Path]:
        """Return the paths of all finished checkpoints, from the oldest resume point to the newest."""
        return sorted(path for path in self.folder.glob("*") if _NAME.fullmatch(path.name))

    def _write(self, checkpoint: Checkpoint, arrays: dict[str, Any]) -> None:
        """Write a checkpoint and remove old ones. Raise `UserError` when that fails."""
        if self._check_before:
            self._check_before()
        resume_point = checkpoint.resume_point
        path = self.folder / resume_point.name
        facts = {
            "phase": int(resume_point.state.phase),
            "stage": int(resume_point.stage),
            "part": resume_point.part,
            "done": resume_point.done,
            "seconds": checkpoint.seconds,
            "compilations": checkpoint.compilations,
            KEY: checkpoint.record.to_dict(),
        }
        try:
            while self._damaged:
                remove_folder(self._damaged[-1])
                self._damaged.pop()
            remove_drafts(self.folder, _NAME)
            with atomic_folder(path, facts, replace=True) as draft:
                save_arrays(draft / "arrays", arrays)
                write_atomically(draft / "metrics.jsonl", lines_of(checkpoint.events))
            self._last = path.name
            for old in self._finished()[:-_KEPT]:
                if not old.name.endswith(_BEGIN):
                    remove_folder(old)
        except OSError as error:
            intact = f"{self._last} is intact" if self._last else "there is no earlier checkpoint"
            raise UserError(
                f"checkpoint {path} could not be written ({error}); {intact}: free disk space if the disk is full, and "
                "run the same command again"
            ) from error
