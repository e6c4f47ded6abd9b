"""Many runs in one process, in order or seeds at once: what they share is made once, a failure ends one only."""

import functools
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnemonics_jax import data, seeds
from mnemonics_jax.checkpoint import SaveConfig
from mnemonics_jax.config import Config
from mnemonics_jax.console import Display
from mnemonics_jax.errors import NumbersError, RunsFailedError, UserError
from mnemonics_jax.files import make_folder, write_json
from mnemonics_jax.journal import cannot_write, check_folder
from mnemonics_jax.run import finished, run
from mnemonics_jax.state import make_setup

FIRST_PHASES = "first-phases"
"""The folder, beside those of the runs, with the models that several of them start from."""
FAILURE = "failure.json"
"""The file in a run's folder that tells how its last start failed."""


@dataclass(frozen=True)
class Job:
    """A run and the name of its folder, which may be a path below the plan's own."""

    name: str
    config: Config


@dataclass(frozen=True)
class Outcome:
    """Summaries of the runs that are finished and messages of those that failed, by the names of their jobs."""

    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """Exit status of a program that executed the plan: 3 when a run failed."""
        return 3 if self.failures else 0

    def tell(self, display: Display) -> None:
        """Warns of each failure."""
        for name, message in self.failures.items():
            display.warn(f"{name} failed: {message}")

    def complete(self, out: Path) -> list[dict[str, Any]]:
        """The summaries, in order of the jobs. Raises `RunsFailedError` when a run failed; `out` holds the others."""
        if self.failures:
            raise RunsFailedError(
                f"{len(self.failures)} of {len(self.failures) + len(self.summaries)} runs failed "
                f"({', '.join(self.failures)}): the same command tries them again, `mnemonics report {out}` shows the "
                "others"
            )
        return list(self.summaries.values())


After = Callable[[Job, Path], None]
"""Is called when a job is finished, with its folder, however often the plan is executed."""


def execute(
    jobs: Sequence[Job],
    out: Path,
    display: Display,
    save: SaveConfig | None = None,
    after: After | None = None,
    *,
    vmap_seeds: bool = False,
) -> Outcome:
    """Runs each job in the folder out/NAME; what is finished is not run again, what was interrupted goes on.

    Jobs that follow each other and have the same data load it once, and those that start the same train phase 0 once
    (`FirstPhase`). With `vmap_seeds` jobs that differ in nothing but their seed run at the same time, as one `vmap`ped
    program (`seeds`); their results agree with those one by one to rounding. A job that fails leaves failure.json in
    its folder and the others go on; the next call tries it again. Raises `UserError`, which names the job, before any
    training for what cannot work.
    """
    load = functools.lru_cache(maxsize=1)(data.load)
    check(jobs, out, save or SaveConfig(), load)
    summaries: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    titles = {job.name: f"[{number + 1}/{len(jobs)}] {job.name}" for number, job in enumerate(jobs)}

    def start(job: Job, display: Display) -> None:
        try:
            summaries[job.name] = execute_one(job, out, display, save, after, load)
        except Exception as error:
            failures[job.name] = str(error) or type(error).__name__
            display.warn(f"failed: {failures[job.name]}")

    if vmap_seeds:
        groups = seeds.groups([job.config for job in jobs])
        for group in groups:
            seeds.check(jobs[group[0]].config, len(group), load)
        for group in groups:
            members = {titles[jobs[i].name]: functools.partial(start, jobs[i]) for i in group}
            seeds.run_at_once(members, display)
    else:
        for job in jobs:
            display.begin(titles[job.name])
            start(job, display)
    display.begin("")
    # Runs at once end in any order.
    names = [job.name for job in jobs]
    done, failed = ({name: found[name] for name in names if name in found} for found in (summaries, failures))
    outcome = Outcome(done, failed)
    outcome.tell(display)
    return outcome


def progress(folder: Path) -> str:
    """How far the run in `folder` has come, from its files alone: done, failed, begun or to do."""
    marks = {"done": "summary.json", "failed": FAILURE, "begun": "config.json"}
    return next((state for state, name in marks.items() if (folder / name).exists()), "to do")


def execute_one(
    job: Job,
    out: Path,
    display: Display,
    save: SaveConfig | None = None,
    after: After | None = None,
    load: data.Load = data.load,
) -> dict[str, Any]:
    """The summary of one job, run if it is not finished. An exception on the way is recorded in failure.json."""
    folder = out / job.name
    try:
        (folder / FAILURE).unlink(missing_ok=True)
        summary = finished(folder, display)
        if summary is None:
            summary = run(job.config, folder, display, save, first_phases=out / FIRST_PHASES, load=load)
        if after:
            after(job, folder)
    except Exception as error:
        known = isinstance(error, UserError | NumbersError)
        record_failure(folder, error, display.where, None if known else traceback.format_exc())
        raise
    return summary


def record_failure(folder: Path, error: Exception, where: str, trace: str | None) -> None:
    """Writes failure.json: the kind of error, its message, phase and step where known, and a traceback if one helps."""
    make_folder(folder)
    record = {"error": type(error).__name__, "message": str(error) or type(error).__name__, "where": where}
    with cannot_write(folder / FAILURE):
        write_json(folder / FAILURE, {**record, "traceback": trace})


def check(jobs: Sequence[Job], out: Path, save: SaveConfig, load: data.Load) -> None:
    """Makes the folder `out` if all the jobs can work; otherwise raises `UserError`, which names the job."""
    save.validate()
    names: set[str] = set()
    for job in jobs:
        parts = job.name.split("/")
        if job.name in names or parts[0] == FIRST_PHASES or {"", ".", ".."} & {*parts}:
            raise UserError(f"{job.name!r} cannot be the name of a run here: choose another, and each only once")
        names.add(job.name)
        try:
            check_folder(out / job.name, job.config)
            if not (out / job.name / "summary.json").exists():
                make_setup(job.config, load)
        except UserError as error:
            raise UserError(f"{job.name}: {error}") from error
    make_folder(out)
