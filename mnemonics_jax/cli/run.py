"""`mnemonics run`: one run, or several class orders at once."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from mnemonics_jax.cli import words as shared
from mnemonics_jax.config.config import Config
from mnemonics_jax.config.presets import PRESETS, make_config
from mnemonics_jax.runs.naming import default_name
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.tracker import Service
from mnemonics_jax.runtime.distributed import Cluster, connect, is_primary
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.sweeps.job import check_seeds


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Settings of `mnemonics run`."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of the run: settings, metrics, checkpoints, summary. Default: runs/NAME, where NAME says what differs from
    the preset and ends in a hash of all settings."""
    vmap_seeds: int | None = None
    """Number of class orders, with the seeds --seed, --seed + 1, ..., to run at once as one vmapped program on one
    GPU or TPU, on a CPU in order. The run of each seed has its own folder in --out, where it can also be resumed
    alone."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show every phase of every run with --vmap-seeds, and progress inside phases in logs."""
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Cluster)
    track: tuple[Service, ...] = ()
    """Services that show the run, beside TensorBoard: wandb (Weights & Biases), mlflow."""
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)


def main(words: list[str]) -> int:
    """Run what `words` ask for, and return the exit status."""
    start = shared.start("run", words)
    base = make_config(
        start.preset, _only("method", start.methods), _only("exemplars", start.kinds) or "mnemonics", start.recipe
    )
    asked = shared.parse(
        RunSettings(start.file.apply(base)),
        start.words,
        command=f"run {start.preset}",
        description=f"One run of {base.method.name} with {base.exemplars.name} exemplars on the preset {base.preset}: "
        f"{PRESETS[base.preset].summary}.\n\n" + shared.choices("--method NAME", "--exemplars NAME"),
    )
    asked.config.validate()
    if asked.vmap_seeds is not None:
        _check_seeds(asked)
    out = asked.out or Path("runs") / default_name(asked.config, base, asked.vmap_seeds)
    return _run_seeds(asked, out) if asked.vmap_seeds is not None else _run(asked, out)


def _only(what: str, names: list[str] | None) -> str | None:
    if names and len(names) > 1:
        raise UserError(f"--config: {what} {', '.join(names)}: a run takes one; `mnemonics compare` takes several")
    return names[0] if names else None


def _run(asked: RunSettings, out: Path) -> int:
    from mnemonics_jax.reports.tables import run_table
    from mnemonics_jax.runs.runner import run_in_folder
    from mnemonics_jax.runtime.compile_cache import use_persistent_cache
    from mnemonics_jax.runtime.progress import Display, stdout

    use_persistent_cache()
    connect(asked.cluster)
    with Display(quiet=not is_primary(), verbose=asked.verbose) as display:
        summary = run_in_folder(asked.config, out, display, asked.save, asked.track)
    if is_primary():
        stdout().print(run_table(summary))
        print(shared.where_results_lie(out))
    return 0


def _check_seeds(asked: RunSettings) -> None:
    check_seeds("--vmap-seeds", asked.vmap_seeds)
    if asked.cluster.distributed:
        raise UserError("--vmap-seeds needs a single device: leave out --distributed, or run the seeds one by one")


def _run_seeds(asked: RunSettings, out: Path) -> int:
    from mnemonics_jax.reports.own_files import REPORT
    from mnemonics_jax.reports.tables import comparison_tables, write_report
    from mnemonics_jax.runtime.compile_cache import use_persistent_cache
    from mnemonics_jax.runtime.progress import Display, stdout
    from mnemonics_jax.sweeps.jobs import Job, run_jobs

    REPORT.check(out)
    use_persistent_cache()
    first = asked.config.seed
    jobs = [
        Job(f"seed{seed}", dataclasses.replace(asked.config, seed=seed))
        for seed in range(first, first + asked.vmap_seeds)
    ]
    with Display(verbose=asked.verbose) as display:
        summaries = run_jobs(jobs, out, display, asked.save, track=asked.track, vmap_seeds=True).complete(out)
    stdout().print(comparison_tables(write_report(summaries, out)))
    print(shared.where_results_lie(out))
    return 0
