"""`mnemonics compare`: methods × exemplar kinds × class orders."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from mnemonics_jax.cli import words as shared
from mnemonics_jax.config.config import Config
from mnemonics_jax.config.presets import PRESETS, make_config
from mnemonics_jax.exemplars import EXEMPLARS, exemplar_class
from mnemonics_jax.methods import method_class
from mnemonics_jax.runs.naming import comparison_name
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.tracker import Service
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.sweeps.job import check_seeds


@dataclasses.dataclass(frozen=True)
class CompareSettings:
    """Settings of `mnemonics compare`."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    seeds: int = 5
    """Number of class orders for each arm, with the seeds 0 .. seeds-1."""
    vmap_seeds: bool = False
    """Run the class orders of an arm at once, as one vmapped program on one GPU or TPU; on a CPU they run in order."""
    out: Path | None = None
    """Folder of the comparison; each run has its own folder in it. Default: runs/NAME, where NAME says what differs
    from the preset."""
    list: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print the planned runs and which are done."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show every phase of every run, not only one line for each run."""
    track: tuple[Service, ...] = ()
    """Services that show each run, beside TensorBoard: wandb (Weights & Biases), mlflow."""
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)


def main(words: list[str]) -> int:
    """Run what `words` ask for, and return the exit status."""
    start = shared.start("compare", words, "methods", several=True)
    methods = start.methods or ["lwf", "icarl", "bic", "lucir"]
    kinds = start.kinds or list(EXEMPLARS)
    for name in methods:
        method_class(name)
    for name in kinds:
        exemplar_class(name)
    presets = [make_config(start.preset, method, kind, start.recipe) for method in methods for kind in kinds]
    bases = start.file.apply_to_all(presets)
    # The words are parsed first with the flags of all arms, for help and for unknown words, and then once for each arm,
    # which takes the flags that it has; a flag that is not given keeps the value of the arm.
    everything = shared.with_all_settings(presets)
    asked = shared.parse(
        CompareSettings(shared.with_all_settings(bases)),
        start.words,
        command=f"compare {start.preset}",
        description=f"Methods × exemplar kinds × class orders on the preset {start.preset}: "
        f"{PRESETS[start.preset].summary}. A setting applies to all arms that have it.\n\n"
        + shared.choices("--methods NAME NAME ...", "--exemplars NAME NAME ..."),
    )
    check_seeds("--seeds", asked.seeds)
    if asked.config.seed != bases[0].seed:
        raise UserError(f"--seed {asked.config.seed}: a comparison runs the seeds from 0 on, as many as --seeds says")
    configs = [shared.parse_known(CompareSettings(config), start.words).config for config in bases]
    for config in configs:
        config.validate()
    out = asked.out or Path("runs") / comparison_name(asked.config, everything)
    return _compare(asked, out, {(config.method.name, config.exemplars.name): config for config in configs})


def _compare(asked: CompareSettings, out: Path, arms: dict[tuple[str, str], Config]) -> int:
    from mnemonics_jax.reports.own_files import REPORT
    from mnemonics_jax.reports.tables import comparison_tables, write_report
    from mnemonics_jax.runtime.compile_cache import use_persistent_cache
    from mnemonics_jax.runtime.progress import Display, stdout
    from mnemonics_jax.sweeps.comparison import compare, comparison_jobs
    from mnemonics_jax.sweeps.jobs import job_lines

    if asked.list:
        print("\n".join(job_lines(comparison_jobs(arms, asked.seeds), out)))
        return 0
    REPORT.check(out)
    use_persistent_cache()
    with Display(verbose=asked.verbose) as display:
        summaries = compare(arms, asked.seeds, out, display, asked.save, track=asked.track, vmap_seeds=asked.vmap_seeds)
    stdout().print(comparison_tables(write_report(summaries, out)))
    print(shared.where_results_lie(out))
    return 0
