"""Jobs on a Ray cluster by Ray Tune, which places them, tries again what fails, and resumes what was interrupted."""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mnemonics_jax import data
from mnemonics_jax.checkpoint import SaveConfig
from mnemonics_jax.compilations import use_persistent_cache
from mnemonics_jax.console import Display
from mnemonics_jax.errors import UserError
from mnemonics_jax.journal import read_json
from mnemonics_jax.plan import FAILURE, After, Job, Outcome, check, execute_one, record_failure
from mnemonics_jax.run import finished


@dataclass(frozen=True)
class RayConfig:
    """What Ray gives to each run, and how often it tries."""

    gpus_per_point: float = 0.0
    """GPUs of each run, with --executor ray; a fraction lets several runs share one."""
    cpus_per_point: float = 1.0
    """Processor cores of each run, with --executor ray."""
    max_failures: int = 3
    """How often Ray starts a run again that has failed or whose worker was lost. It goes on from its checkpoint."""

    def validate(self) -> None:
        """Raises `UserError` for a setting out of range."""
        if self.gpus_per_point < 0 or self.cpus_per_point <= 0 or self.max_failures < 0:
            raise UserError(
                f"--gpus-per-point {self.gpus_per_point}, --cpus-per-point {self.cpus_per_point}, --max-failures "
                f"{self.max_failures}: give no negative number, and some share of a core"
            )


def execute_on_ray(
    jobs: Sequence[Job],
    out: Path,
    display: Display,
    save: SaveConfig | None = None,
    after: After | None = None,
    config: RayConfig | None = None,
) -> Outcome:
    """As `plan.execute`, on the Ray cluster that RAY_ADDRESS names or on one of this machine, as many jobs as fit.

    Every machine has to have this package and see `out`, where each job's own checkpoints are. Ray's state is in
    out/ray: a call with the same jobs restores it, and Ray starts what is unfinished or has failed. Raises `UserError`
    before any training for what cannot work, and when Ray is missing.
    """
    config = config or RayConfig()
    config.validate()
    try:
        import ray
        from ray import tune
    except ImportError as error:
        raise UserError(f'--executor ray needs Ray ({error}): pip install "mnemonics-jax[ray]"') from error
    # This process only checks and waits; the memory of its GPUs is for the workers.
    jax.config.update("jax_platforms", "cpu")
    check(jobs, out, save or SaveConfig(), data.load)
    out, place = out.absolute(), Path.cwd()
    named = {job.name: job for job in jobs}

    def point(chosen: dict[str, Any]) -> None:
        """One job in a worker process of Ray's."""
        _enter(place, config.gpus_per_point)
        with Display() as shown:
            shown.begin(chosen["job"])
            summary = execute_one(named[chosen["job"]], out, shown, save, after)
        tune.report({key: summary[key] for key in ("average_accuracy", "forgetting", "seconds")})

    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with warnings.catch_warnings():
            # JAX warns of forks; these go straight on to other programs.
            warnings.simplefilter("ignore", RuntimeWarning)
            ray.init(**({} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}))
    # What fails is told at the end, and lies in the runs' folders.
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


def _enter(place: Path, gpus: float) -> None:
    """Makes a worker process see paths as the caller does, and take no more of a GPU than its share."""
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
        error = error or UserError(f"Ray counts it as finished, but it is not: remove {out / 'ray'} to start it anew")
        # Where a worker was lost there is no record but Ray's.
        if not (out / name / FAILURE).exists():
            record_failure(out / name, error, "", None)
        outcome.failures[name] = read_json(out / name / FAILURE)["message"]
    outcome.tell(display)
    return outcome


def _name(jobs: Sequence[Job]) -> str:
    """A name that tells plans of other jobs apart."""
    text = json.dumps([[job.name, job.config.to_dict()] for job in jobs], sort_keys=True)
    return f"plan-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
