"""`mnemonics sweep`: every combination of the values of some settings, on several class orders."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mnemonics_jax.cli import words as shared
from mnemonics_jax.config.parsing import pairs
from mnemonics_jax.runs.naming import plain_name, short_hash
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.tracker import Service
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.sweeps.job import Job
from mnemonics_jax.sweeps.ray_config import RayConfig
from mnemonics_jax.sweeps.sweep import Sweep, parse_axes

_ABOUT = """Accuracy, forgetting, seconds and memory of every combination of the values of some settings.

    mnemonics sweep digits --sweep exemplars.unroll_length=1,2,5,10 --seeds 3 --herding --out runs/sweep
    mnemonics sweep cifar100 --sweep exemplars.unroll_length=5,10 exemplars.inner_init=current,reset_head
        --method lucir --set train.epochs=20 --executor ray --gpus-per-point 1

A point is a combination of the swept values; it runs on every seed. The results of all finished points are written
to --out. The same command goes on where it stopped and tries failed points again; it exits with 3 while any has failed
(failure.json in its folder).

On one machine points run one after the other in one process, and those that start the same train phase 0 once. With
--executor ray (pip install "mnemonics-jax[ray]") Ray Tune places them on the cluster that RAY_ADDRESS names, or on this
machine's processors and GPUs, as many at once as fit; --out has to be a folder that all machines see. A point whose
worker is lost is started again by Ray and goes on from its own checkpoint.
"""


@dataclass(frozen=True)
class SweepSettings:
    """Settings of `mnemonics sweep`."""

    sweep: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE,VALUE ...")]
    """Settings and their values, as exemplars.unroll_length=1,2,5. A value may be a list, as net.widths=8:16,16:32."""
    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")] = "digits"
    """Preset that all other settings come from."""
    method: str | None = None
    """lwf, icarl, bic or lucir; the preset's own when not given."""
    recipe: str = "default"
    """default, chosen by measurement on small networks, or paper, as close to the publication as its text goes."""
    seeds: int = 3
    """Number of class orders of each point: seeds 0 .. seeds-1."""
    herding: bool = False
    """Run herded exemplars too, under the same settings, and give each point's gain over them."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="FIELD=VALUE ...")] = ()
    """Settings to change in every run."""
    out: Path | None = None
    """Folder of the runs and of the results. Default: runs/NAME, where NAME names the swept settings and ends in a hash
    of all that points of one folder have to share."""
    list: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print the planned runs and which are done."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show every phase of every run, not only one line for each run."""
    executor: Literal["serial", "ray"] = "serial"
    """Where points run: one after the other in this process, or on Ray."""
    vmap_seeds: bool = False
    """With the serial executor: run a point's seeds at once, as one program on one GPU or TPU; on a CPU in order."""
    ray: Annotated[RayConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RayConfig)
    track: tuple[Service, ...] = ()
    """Services that show each run, beside TensorBoard: wandb (Weights & Biases), mlflow."""
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)


def main(words: list[str]) -> int:
    """Run what `words` ask for, and return the exit status."""
    return run(shared.parse_new(SweepSettings, words, command="sweep", description=_ABOUT))


def run(asked: SweepSettings) -> int:
    """Run what is not done and write the results; return the exit status.

    Raises:
        UserError: for options or settings that contradict each other.
    """
    fixed = pairs(asked.settings, "--set")
    sweep = Sweep(parse_axes(asked.sweep), asked.preset, asked.method, fixed, asked.seeds, asked.herding, asked.recipe)
    if asked.vmap_seeds and asked.executor == "ray":
        raise UserError("--vmap-seeds: Ray gets a point's seeds one by one; leave it out, or choose --executor serial")
    jobs = sweep.jobs()
    for job in jobs:
        job.config.validate()
    asked = dataclasses.replace(asked, out=asked.out or Path("runs") / _name(sweep))
    if asked.list:
        from mnemonics_jax.sweeps.jobs import job_lines

        print("\n".join(job_lines(jobs, asked.out)))
        return 0
    return _sweep(asked, sweep, jobs)


def _name(sweep: Sweep) -> str:
    shared_settings = [sweep.preset, sweep.method, sweep.recipe, sweep.fixed, sorted(sweep.axes)]
    axes = plain_name(",".join(name.split(".")[-1] for name in sweep.axes))
    return "-".join(["sweep", sweep.preset, axes, short_hash(shared_settings)])


def _sweep(asked: SweepSettings, sweep: Sweep, jobs: list[Job]) -> int:
    from mnemonics_jax.reports.own_files import SWEEP
    from mnemonics_jax.reports.sweep import write_sweep
    from mnemonics_jax.runtime.compile_cache import use_persistent_cache
    from mnemonics_jax.runtime.progress import Display
    from mnemonics_jax.sweeps.compiled_memory import measure
    from mnemonics_jax.sweeps.jobs import run_jobs
    from mnemonics_jax.sweeps.ray_jobs import run_jobs_on_ray

    SWEEP.check(asked.out)
    use_persistent_cache()
    serial = partial(run_jobs, vmap_seeds=asked.vmap_seeds)
    runner = serial if asked.executor == "serial" else partial(run_jobs_on_ray, config=asked.ray)
    with Display(verbose=asked.verbose) as display:
        outcome = runner(jobs, asked.out, display, asked.save, measure, track=asked.track)
    print(write_sweep(sweep, asked.out))
    print(f"\nresults: {asked.out}")
    return outcome.status
