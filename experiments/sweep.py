"""Sweeps over unroll length, or any other settings: accuracy, forgetting, seconds and memory of every combination.

    python experiments/sweep.py --sweep exemplars.unroll_length=1,2,5,10 --seeds 3 --herding --out runs/sweep
    python experiments/sweep.py --sweep exemplars.unroll_length=5,10 exemplars.inner_init=current,reset_head \\
        --preset cifar100 --method lucir --set train.epochs=20 --executor ray --gpus-per-point 1

A point is a combination of the swept values; it runs on every seed. --set changes settings of all points. sweep.md,
.csv, .json and .png (each figure against the first swept setting) in --out have what is finished. The same command goes
on where it stopped and tries failed points again; it exits with 3 while any has failed (failure.json in its folder).

On one machine points run one after the other in one process, and those that start the same train phase 0 once. With
--executor ray (pip install "mnemonics-jax[ray]") Ray Tune places them on the cluster that RAY_ADDRESS names, or on this
machine's processors and GPUs, as many at once as fit; --out has to be a folder that all machines see. A point whose
worker is lost is started again by Ray and goes on from its own checkpoint.
"""

import dataclasses
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mnemonics_jax.config.parsing import pairs
from mnemonics_jax.reports.sweep import write_sweep
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runtime.compile_cache import use_persistent_cache
from mnemonics_jax.runtime.errors import UserError, exit_status
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.sweeps.jobs import run_jobs
from mnemonics_jax.sweeps.ray_jobs import RayConfig, run_jobs_on_ray
from mnemonics_jax.sweeps.sweep import Sweep, measure, parse_axes


@dataclass(frozen=True)
class Asked:
    """Settings to sweep, and where."""

    sweep: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE,VALUE ...")]
    """Settings and their values, as exemplars.unroll_length=1,2,5. A value may be a list, as net.widths=8:16,16:32."""
    preset: str = "digits"
    """Preset that all other settings come from."""
    method: str | None = None
    """lwf, icarl, bic or lucir; the preset's own when not given."""
    recipe: str = "default"
    """default, what has been measured to work, or paper, as close to the publication as its text goes."""
    seeds: int = 3
    """Number of class orders of each point: seeds 0 .. seeds-1."""
    herding: bool = False
    """Run herded exemplars too, under the same settings, and give each point's gain over them."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="FIELD=VALUE ...")] = ()
    """Settings to change in every run."""
    out: Path = Path("runs/sweep")
    """Folder of the runs and of the results."""
    executor: Literal["serial", "ray"] = "serial"
    """Where points run: one after the other in this process, or on Ray."""
    vmap_seeds: bool = False
    """With the serial executor: run a point's seeds at once, as one program on one device."""
    ray: Annotated[RayConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RayConfig)
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)


def main(asked: Asked) -> int:
    """Run what is not done and write the results; return the exit status.

    Raises:
        UserError: for options or settings that contradict each other.
    """
    fixed = pairs(asked.settings, "--set")
    sweep = Sweep(parse_axes(asked.sweep), asked.preset, asked.method, fixed, asked.seeds, asked.herding, asked.recipe)
    if asked.vmap_seeds and asked.executor == "ray":
        raise UserError("--vmap-seeds: Ray gets a point's seeds one by one; leave it out, or choose --executor serial")
    use_persistent_cache()
    serial = partial(run_jobs, vmap_seeds=asked.vmap_seeds)
    run = serial if asked.executor == "serial" else partial(run_jobs_on_ray, config=asked.ray)
    with Display() as display:
        outcome = run(sweep.jobs(), asked.out, display, asked.save, measure)
    print(write_sweep(sweep, asked.out))
    return outcome.status


if __name__ == "__main__":
    with exit_status("sweep"):
        sys.exit(main(tyro.cli(Asked, description=__doc__)))
