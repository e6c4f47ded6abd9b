"""Many runs side by side: every method with every exemplar kind on the same class orders."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnemonics_jax.config.config import Config
from mnemonics_jax.methods import METHODS
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.summary import Summary
from mnemonics_jax.runs.tracker import Service
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.sweeps.job import Job, check_seeds
from mnemonics_jax.sweeps.jobs import run_jobs

Arm = tuple[str, str]
"""A method and an exemplar kind, by name."""


def compare(
    arms: Mapping[Arm, Config],
    seeds: int,
    out: Path,
    display: Display,
    save: SaveConfig | None = None,
    *,
    track: Sequence[Service] = (),
    vmap_seeds: bool = False,
) -> list[Summary]:
    """Run every arm for seeds 0 .. seeds-1, each run in its own folder in `out`, and return the summaries.

    Finished runs are not run again. Runs that would train the same base model share it, and a failed run does not stop
    the others (`run_jobs`).

    Args:
        arms: the configuration of each arm.
        seeds: number of class orders.
        out: the folder of the comparison.
        display: shows progress and warnings.
        save: how often to save inside a phase.
        track: the services that show each run, beside TensorBoard.
        vmap_seeds: whether to run the seeds of an arm at once, as one vmapped program; on a CPU they run in order.

    Raises:
        UserError: before any training, for settings that cannot work.
        RunsFailedError: at the end, when a run has failed.
    """
    jobs = comparison_jobs(arms, seeds)
    return run_jobs(jobs, out, display, save, track=track, vmap_seeds=vmap_seeds).complete(out)


def comparison_jobs(arms: Mapping[Arm, Config], seeds: int) -> list[Job]:
    """Return the runs of every arm for the seeds 0 .. seeds-1.

    A method without memory is run once for each seed, whatever the kinds.

    Raises:
        UserError: for a number of seeds below 1.
    """
    check_seeds("--seeds", seeds)
    found: dict[str, Config] = {}
    for (method, kind), config in arms.items():
        found.setdefault(f"{method}-{kind}" if METHODS[method].uses_memory else method, config)
    # Seeds outermost: an interrupted comparison has every arm on the same class orders.
    return [
        Job(f"{name}-seed{seed}", dataclasses.replace(found[name], seed=seed))
        for seed, name in itertools.product(range(seeds), found)
    ]
