"""Jobs on a Ray cluster. Ray Tune schedules them, retries failed ones, and resumes interrupted ones."""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from mnemonics_jax import data
from mnemonics_jax.runs.runner import finished
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.tracker import Service
from mnemonics_jax.runs.tracking import check_services
from mnemonics_jax.runtime.compile_cache import use_persistent_cache
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import read_json
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.runtime.settings import check_ranges
from mnemonics_jax.sweeps.jobs import FAILURE, After, Job, Outcome, check, record_failure, run_job
from mnemonics_jax.sweeps.ray_config import RayConfig

_REPORTED = (
    *("average_accuracy", "last_accuracy", "average_accuracy_exemplar_model"),
    *("forgetting", "average_forgetting", "backward_transfer", "seconds"),
)
"""What Ray shows of a finished run, of the keys of its summary; a method without memory has not all of them."""


def run_jobs_on_ray(
    jobs: Sequence[Job],
    out: Path,
    display: Display,
    save: SaveConfig | None = None,
    after: After | None = None,
    config: RayConfig | None = None,
    *,
    track: Sequence[Service] = (),
) -> Outcome:
    """Run jobs as `run_jobs` does, but on a Ray cluster: the one at RAY_ADDRESS, or a local one.

    As many jobs run at the same time as the cluster has room for. Every machine needs this package and access to `out`,
    where the jobs' checkpoints are. Ray's state is in out/ray: a call with the same jobs restores it, and Ray starts
    the unfinished and failed jobs.

    Raises:
        UserError: before any training, for a job that cannot work, and when Ray is not installed.
    """
    config = config or RayConfig()
    check_ranges(config)
    check_services(track)
    try:
        import ray
        from ray import tune
    except ImportError as error:
        raise UserError(f'--executor ray needs Ray ({error}): pip install "mnemonics-jax[ray]"') from error
    # This process only checks and waits; it leaves the memory of the GPUs to the workers.
    jax.config.update("jax_platforms", "cpu")
    check(jobs, out, save or SaveConfig(), data.load)
    out, place = out.absolute(), Path.cwd()
    named = {job.name: job for job in jobs}

    def point(chosen: dict[str, Any]) -> None:
        """Run one job in a worker process of Ray."""
        _enter(place, config.gpus_per_point)
        with Display() as shown:
            shown.begin(chosen["job"])
            summary = run_job(named[chosen["job"]], out, shown, save, after, track)
        tune.report({key: summary[key] for key in _REPORTED if summary.get(key) is not None})

    if not ray.is_initialized():
        _start_ray(ray.init)
    # Failures are reported at the end, and are in the runs' folders.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    trainable = tune.with_resources(point, {"cpu": config.cpus_per_point, "gpu": config.gpus_per_point})
    state = out / "ray" / _name(jobs)
    if tune.Tuner.can_restore(str(state)):
        tuner = tune.Tuner.restore(str(state), trainable, resume_unfinished=True, restart_errored=True)
    else:
        failures = tune.FailureConfig(max_failures=config.max_failures)
        tuner = tune.Tuner(
            trainable,
            param_space={"job": tune.grid_search(list(named))},
            run_config=tune.RunConfig(
                name=state.name, storage_path=str(state.parent), failure_config=failures, verbose=0
            ),
        )
    results = tuner.fit()
    return _outcome(named, out, {result.config["job"]: result.error for result in results}, display)


def _start_ray(init: Callable[..., Any]) -> None:
    """Connect to the cluster at RAY_ADDRESS, or start a local one, by `ray.init`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        # JAX warns of forks, but these start other programs at once.
        warnings.simplefilter("ignore", RuntimeWarning)
        init(**({} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}))


def _enter(place: Path, gpus: float) -> None:
    """Set up a worker process: the caller's working directory `place`, and a limit on its share of a GPU's memory."""
    if place.is_dir():
        os.chdir(place)
    if 0 < gpus < 1:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * gpus:.2f}")
    use_persistent_cache()


def _outcome(named: dict[str, Job], out: Path, errors: dict[str, Exception | None], display: Display) -> Outcome:
    outcome = Outcome()
    for name in named:
        error, summary = errors.get(name), finished(out / name, Display(quiet=True))
        if error is None and summary is not None:
            outcome.summaries[name] = summary
            continue
        error = error or UserError(f"Ray counts it as finished, but it is not: remove {out / 'ray'} to start it again")
        # When a worker is lost, only Ray has a record of it.
        if not (out / name / FAILURE).exists():
            record_failure(out / name, error, "", None)
        outcome.failures[name] = read_json(out / name / FAILURE)["message"]
    outcome.warn_of_failures(display)
    return outcome


def _name(jobs: Sequence[Job]) -> str:
    """Return a name for Ray's state that is unique to these jobs."""
    text = json.dumps([[job.name, job.config.to_dict()] for job in jobs], sort_keys=True)
    return f"plan-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
