"""Points of a run on disk: arrays by Orbax in the background, each sealed with checksums once it is whole."""

import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from mnemonics_jax.errors import UserError
from mnemonics_jax.files import Damaged, seal, unseal, write_whole
from mnemonics_jax.journal import lines_of, read_metrics
from mnemonics_jax.point import Point, Stage, work_like
from mnemonics_jax.state import PhaseState, Setup

_KEPT = 2
_DRAFT = ".part"
_BEGIN = "-begin"
_NAME = re.compile(r"\d{4}-\d-[a-z]+(-\d{4}-\d{8})?")


@dataclass(frozen=True)
class SaveConfig:
    """How often a run is saved inside a phase. No part of `Config`, since it changes no result."""

    every_steps: int = 1000
    """Training steps after which a checkpoint is due inside a phase."""
    every_outer_steps: int = 25
    """Outer steps of exemplar learning after which one is due."""
    min_seconds: float = 30.0
    """Least time between two checkpoints: one that is due waits for it, so that fast steps are not slowed down."""

    def validate(self) -> None:
        """Raises `UserError` for a setting out of range."""
        for name in ("every_steps", "every_outer_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--save.{name.replace('_', '-')} {getattr(self, name)}: must be positive")
        if not self.min_seconds >= 0:
            raise UserError(f"--save.min-seconds {self.min_seconds}: must not be negative")

    def due(self, point: Point, last: Point, seconds: float) -> bool:
        """Whether to save `point`, `last` having been saved `seconds` ago."""
        same = (last.state.phase, last.stage, last.part) == (point.state.phase, point.stage, point.part)
        done = last.done if same else 0
        every = self.every_steps if point.stage is Stage.TRAINING else self.every_outer_steps
        return point.done - done >= every and seconds >= self.min_seconds


class Saved(NamedTuple):
    """What a checkpoint holds: the point, the events logged up to it, and what the run has cost so far.

    `seconds` were spent in the point's phase; `compilations` is the most that any process of the run has compiled.
    """

    point: Point
    events: list[dict[str, Any]]
    seconds: float
    compilations: int


class Checkpoints:
    """The checkpoints of a run, one folder each; to be used as a context manager.

    A folder gets its name only when Orbax has finished in the background and the manifest with the checksums is
    written: what has a name and lacks a part is damaged, and what has none was never finished. Kept are the last two
    and the one at the start of each phase.

    Of several processes the first alone `writes`: what a point holds is the same in all of them. Each reads for itself.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder, self._writes = folder.absolute(), writes
        self._orbax = ocp.StandardCheckpointer(multiprocessing_options=_alone())
        self._thread = ThreadPoolExecutor(1, "commit")
        self._pending: Future[None] | None = None
        self._last: str | None = None
        self._damaged: list[Path] = []

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, failure: type | None, *_: object) -> None:
        try:
            self.wait()
        except UserError:
            # What ended the run already is the first thing to tell.
            if failure is None:
                raise
        finally:
            self._thread.shutdown()
            self._orbax.close()

    @property
    def last(self) -> Path | None:
        """The newest checkpoint that this object has written or restored."""
        return self.folder / self._last if self._last else None

    def save(self, saved: Saved) -> None:
        """Starts to write a checkpoint; the arrays may change hands at once, but must not be changed in place.

        Raises `UserError` when this or the checkpoint before it could not be written.
        """
        if not self._writes:
            return
        self.wait()
        with suppress(Exception):
            # Nothing, but for what a Ctrl-C inside this function has left.
            self._orbax.wait_until_finished()
        name = saved.point.name
        draft = self.folder / (name + _DRAFT)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self._damaged:
                _remove(path)
            self._damaged = []
            for path in self.folder.glob("*" + _DRAFT):
                shutil.rmtree(path)
            draft.mkdir()
            self._orbax.save(draft / "arrays", _arrays(saved.point))
        # Orbax reports a full disk by ValueError, OSError and errors of JAX's own, by where it struck.
        except Exception as error:
            raise self._failed(name, error) from error
        self._pending = self._thread.submit(self._commit, name, saved)

    def wait(self) -> None:
        """Returns when no write is under way. Raises `UserError` when the last one failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raises `UserError` when the last write has failed, without waiting for one under way."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def latest(
        self, setup: Setup, like: PhaseState, warn: Callable[[str], None], *, between_phases: bool = False
    ) -> Saved | None:
        """The newest good checkpoint, or None when none was ever finished; `like` is any of the run's states.

        With `between_phases` those inside a phase are passed over. Newer damaged ones are told to `warn`; the next
        `save` removes them. Raises `UserError` when there are only damaged ones.
        """
        damages = []
        for path in self._finished()[::-1]:
            if between_phases and not path.name.endswith(_BEGIN):
                continue
            try:
                saved = self._restore(path, setup, like)
            except Damaged as error:
                damages.append((path, str(error)))
                continue
            for _, message in damages:
                warn(f"damaged checkpoint: {message}; going back to {path.name}")
            self._damaged = [bad for bad, _ in damages]
            self._last = path.name
            return saved
        if damages:
            listed = "".join(f"\n  {message}" for _, message in damages)
            raise UserError(
                f"no checkpoint in {self.folder} is good, and nothing was changed:{listed}\n"
                "put one back from a copy, or choose another --out to start anew"
            )
        return None

    def named(self, name: str, setup: Setup, like: PhaseState) -> Saved:
        """The checkpoint of that name. Raises `UserError` when this process does not find it good."""
        try:
            return self._restore(self.folder / name, setup, like)
        except Damaged as error:
            raise UserError(f"{error}: every process has to see the same --out") from error

    def after(self, phase: int, setup: Setup, like: PhaseState) -> PhaseState:
        """The state that `phase` has ended with. Raises `UserError` when that checkpoint is missing or damaged."""
        end = Point(like._replace(phase=np.asarray(phase + 1, np.int32)))
        try:
            return self._restore(self.folder / end.name, setup, like).point.state
        except Damaged as error:
            raise UserError(str(error)) from error

    def _restore(self, path: Path, setup: Setup, like: PhaseState) -> Saved:
        facts = unseal(path)
        try:
            stage, done = Stage(facts["stage"]), facts["done"]
            target = {"state": like._asdict(), "work": work_like(setup, like, stage, done)}
            arrays = self._orbax.restore(path / "arrays", target)
        # Orbax has an error of its own for each thing amiss; the checksums are right, so it is of another version.
        except Exception as error:
            raise Damaged(f"{path} does not fit this version of the program ({error})") from error
        arrays = jax.tree.map(np.asarray, arrays)
        point = Point(PhaseState(**arrays["state"]), stage, done, arrays["work"], facts["part"])
        return Saved(point, read_metrics(path / "metrics.jsonl"), facts["seconds"], facts["compilations"])

    def _finished(self) -> list[Path]:
        """All checkpoints with a name, in the order of their points."""
        return sorted(path for path in self.folder.glob("*") if _NAME.fullmatch(path.name))

    def _commit(self, name: str, saved: Saved) -> None:
        final, draft = self.folder / name, self.folder / (name + _DRAFT)
        try:
            self._orbax.wait_until_finished()
            write_whole(draft / "metrics.jsonl", lines_of(saved.events))
            point = saved.point
            where = {"phase": int(point.state.phase), "stage": int(point.stage), "part": point.part, "done": point.done}
            seal(draft, {**where, "seconds": saved.seconds, "compilations": saved.compilations})
            draft.rename(final)
            self._last = name
            for path in self._finished()[:-_KEPT]:
                if not path.name.endswith(_BEGIN):
                    _remove(path)
        except Exception as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise self._failed(name, error) from error

    def _failed(self, name: str, error: Exception) -> UserError:
        intact = f"{self._last} is intact" if self._last else "there is none before it"
        return UserError(
            f"checkpoint {self.folder / name} could not be written ({error}); {intact}: make room if the disk is full "
            "and give the same command again"
        )


def _remove(checkpoint: Path) -> None:
    """Takes the name away first, so that what a crash leaves of it counts as never finished, not as damaged."""
    draft = checkpoint.with_name(checkpoint.name + _DRAFT)
    checkpoint.rename(draft)
    shutil.rmtree(draft)


def _arrays(point: Point) -> dict[str, Any]:
    # Host arrays: Orbax would share out those that lie on the devices of several processes among these.
    return jax.tree.map(np.asarray, {"state": point.state._asdict(), "work": point.work})


def _alone() -> ocp.options.MultiprocessingOptions:
    """Orbax in this process waits for no other."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"{me}")
