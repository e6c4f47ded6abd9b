"""Many runs in one process, one by one or several seeds at once, that share data and base models."""

import functools
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnemonics_jax import data
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.runs.facts import data_facts
from mnemonics_jax.runs.folder import check_folder, with_recorded
from mnemonics_jax.runs.record import Record, configuration_hash
from mnemonics_jax.runs.runner import finished, run_in_folder
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.tracker import Service
from mnemonics_jax.runs.tracking import check_services
from mnemonics_jax.runtime.compile_cache import release_programs
from mnemonics_jax.runtime.errors import NumbersError, RunsFailedError, UserError
from mnemonics_jax.runtime.files import cannot_write, check_name, make_folder, read_json, write_json
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.runtime.settings import check_ranges
from mnemonics_jax.sweeps import vmap_seeds as seeds
from mnemonics_jax.sweeps.job import Job

BASE_MODELS = "base-models"
"""Name of the folder, beside the runs' folders, with the base models that runs share."""
FAILURE = "failure.json"
"""Name of the file in a run's folder that says how its last start failed."""


@dataclass(frozen=True)
class Outcome:
    """Summaries of the finished runs, and messages of the failed ones, by job name."""

    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """Exit status of a program that ran the jobs: 3 when a run failed, else 0."""
        return 3 if self.failures else 0

    def warn_of_failures(self, display: Display) -> None:
        """Show a warning for each failure."""
        for name, message in self.failures.items():
            display.warn(f"{name} failed: {message}")

    def complete(self, out: Path) -> list[dict[str, Any]]:
        """Return the summaries in order of the jobs; `out` is the folder of all jobs.

        Raises:
            RunsFailedError: when a run failed.
        """
        if self.failures:
            raise RunsFailedError(
                f"{len(self.failures)} of {len(self.failures) + len(self.summaries)} runs failed "
                f"({', '.join(self.failures)}): run the same command to try them again, or `mnemonics report {out}` "
                "to see the others"
            )
        return list(self.summaries.values())


After = Callable[[Job, Path], None]
"""A function that is called with each finished job and its folder, also when the job was finished before."""


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    display: Display,
    save: SaveConfig | None = None,
    after: After | None = None,
    *,
    track: Sequence[Service] = (),
    vmap_seeds: bool = False,
) -> Outcome:
    """Run each job in the folder out/NAME: skip finished jobs, and resume interrupted ones.

    Consecutive jobs with the same data load it once. Jobs that would train the same base model train it once
    (`BaseModelCache`). A job that fails leaves failure.json in its folder and does not stop the others; the next call
    tries it again.

    Args:
        jobs: the jobs, with unique names.
        out: the folder of all jobs.
        display: shows progress and warnings.
        save: how often to save inside a phase.
        after: called with each finished job and its folder.
        track: the services that show each run, beside TensorBoard.
        vmap_seeds: whether to run jobs that differ only in the seed at the same time, as one vmapped program; their
            results equal those of single runs up to rounding. On a CPU, where it saves no time, they run in order.

    Raises:
        UserError: before any training, for a job that cannot work, with its name.
    """
    check_services(track)
    load = functools.lru_cache(maxsize=1)(data.load)
    check(jobs, out, save or SaveConfig(), load)
    summaries: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    _show_header(jobs, out, display, load)
    titles = {job.name: f"[{number + 1}/{len(jobs)}] {job.name}" for number, job in enumerate(jobs)}

    def start(job: Job, display: Display) -> None:
        before = progress(out / job.name) == "done"
        try:
            summaries[job.name] = run_job(job, out, display, save, after, track, load)
        except Exception as error:
            failures[job.name] = str(error) or type(error).__name__
            display.warn(f"failed: {failures[job.name]}")
        display.run_done(summaries.get(job.name), before=before)

    if vmap_seeds and not seeds.pays():
        display.note("a CPU computes several class orders no faster at once: they run one after the other")
    if vmap_seeds and seeds.pays():
        _start_at_once({titles[job.name]: job for job in jobs}, start, display, load)
    else:
        for job in jobs:
            release_programs()
            display.begin(titles[job.name])
            start(job, display)
    display.begin("")
    outcome = Outcome(*(_in_order(jobs, found) for found in (summaries, failures)))
    outcome.warn_of_failures(display)
    return outcome


def _start_at_once(
    jobs: Mapping[str, Job], start: Callable[[Job, Display], None], display: Display, load: data.Load
) -> None:
    """Start the jobs, by title, that differ only in the seed at the same time, as one vmapped program."""
    titled = list(jobs.items())
    groups = seeds.groups([job.config for job in jobs.values()])
    for group in groups:
        seeds.check(titled[group[0]][1].config, len(group), load)
    for group in groups:
        release_programs()
        members = {title: functools.partial(start, job) for title, job in (titled[place] for place in group)}
        seeds.run_at_once(members, display)


def _in_order(jobs: Sequence[Job], found: dict[str, Any]) -> dict[str, Any]:
    """Return what was found by job name in order of the jobs: concurrent ones end in any order."""
    return {job.name: found[job.name] for job in jobs if job.name in found}


def _show_header(jobs: Sequence[Job], out: Path, display: Display, load: data.Load) -> None:
    display.many(len(jobs))
    ahead = [job for job in jobs if progress(out / job.name) != "done"]
    done = len(jobs) - len(ahead)
    runs = f"{len(jobs)} in {out}" + (f", {done} of them finished" if done else "")
    # Where all runs are finished no data is loaded.
    facts = data_facts(make_setup(ahead[0].config, load)) if ahead else {}
    display.header({"runs": runs, **facts})


def progress(folder: Path) -> str:
    """Return the progress of the run in `folder`, from its files alone: done, failed, begun or to do."""
    marks = {"done": "summary.json", "failed": FAILURE, "begun": "config.json"}
    return next((state for state, name in marks.items() if (folder / name).exists()), "to do")


def job_lines(jobs: Sequence[Job], out: Path) -> list[str]:
    """Return a line for each job: its progress and its name, and the average accuracy of a finished one.

    Raises:
        UserError: when the folder of a job has a run with other settings.
    """
    lines = []
    for job in jobs:
        check_folder(out / job.name, job.config)
        state = progress(out / job.name)
        accuracy = f" {read_json(out / job.name / 'summary.json')['average_accuracy']:.2f}" if state == "done" else ""
        lines.append(f"{state:6} {job.name}{accuracy}")
    return lines


def run_job(
    job: Job,
    out: Path,
    display: Display,
    save: SaveConfig | None = None,
    after: After | None = None,
    track: Sequence[Service] = (),
    load: data.Load = data.load,
) -> dict[str, Any]:
    """Return the summary of one job, and run it if it is not finished.

    Any exception is written to failure.json and raised again.
    """
    folder = out / job.name
    try:
        (folder / FAILURE).unlink(missing_ok=True)
        summary = finished(folder, display)
        if summary is None:
            summary = run_in_folder(job.config, folder, display, save, track, base_models=out / BASE_MODELS, load=load)
        if after:
            after(job, folder)
    except Exception as error:
        known = isinstance(error, UserError | NumbersError)
        record_failure(folder, error, display.where, None if known else traceback.format_exc())
        raise
    return summary


def record_failure(folder: Path, error: Exception, where: str, trace: str | None) -> None:
    """Write failure.json: the error's class and message, `where` in the run it happened, and the traceback, if any."""
    make_folder(folder)
    record = {"error": type(error).__name__, "message": str(error) or type(error).__name__, "where": where}
    with cannot_write(folder / FAILURE):
        write_json(folder / FAILURE, {**record, "traceback": trace})


def check(jobs: Sequence[Job], out: Path, save: SaveConfig, load: data.Load) -> None:
    """Check all jobs, then create the folder `out`.

    Raises:
        UserError: for the first job that cannot work, with its name; when `out` cannot be created.
    """
    check_ranges(save, "save.")
    check_name(out)
    names: set[str] = set()
    for job in jobs:
        parts = job.name.split("/")
        if job.name in names or parts[0] == BASE_MODELS or {"", ".", ".."} & {*parts}:
            raise UserError(
                f"{job.name!r} cannot be the name of a run here: choose another name, and use each name once"
            )
        names.add(job.name)
        try:
            folder = out / job.name
            check_folder(folder, job.config)
            config = with_recorded(folder, job.config)
            if not (folder / "summary.json").exists():
                make_setup(config, load)
            # A finished run too has to be on the data that are there now.
            check_folder(folder, config, Record(configuration_hash(config), load(config.data).fingerprint))
        except UserError as error:
            raise UserError(f"{job.name}: {error}") from error
    make_folder(out)
