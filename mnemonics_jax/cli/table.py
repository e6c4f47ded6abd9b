"""`mnemonics table`: the cells of the paper's table, beside its figures."""

import dataclasses
from dataclasses import dataclass

import tyro

from mnemonics_jax.cli import words as shared
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.tracker import Service
from mnemonics_jax.sweeps.table1 import TableRequest, stem, table_jobs

_ABOUT = """The table of the paper's slides: every cell as runs, with their result beside the paper's figure.

    mnemonics table --dataset cifar100 --list
    mnemonics table --dataset cifar100 --phases 5 --methods lucir --seeds 3
    mnemonics table --scale small --phases 5 --out runs/table1-small

A cell is a data set, N, a method and an arm: baseline replays herded exemplars, ours learned ones, and ours+transfer
learned ones with weight transfer, which the paper's "w/ ours" included. The same command goes on where it stopped and
runs only what is missing; runs that start the same train phase 0 once. table1-DATASET.md, .csv, .json and .tex in --out
have everything that is finished there, whatever part of the table the command names; cells without a run are empty.
Exit status 3: a run failed (failure.json in its folder); the same command tries it again.

--scale small is a shortened protocol for small machines: scikit-learn's digits (N = 5 only), or images of your own
(--images DIR), a small network, ten epochs, fifty outer steps. Its results are labelled so in the files table1-small.*,
and no difference from the paper's figures is taken.
"""


@dataclass(frozen=True)
class TableSettings(TableRequest):
    """Settings of `mnemonics table`."""

    list: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print the planned runs and which are done."""
    verbose: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show every phase of every run, not only one line for each run."""
    track: tuple[Service, ...] = ()
    """Services that show each run, beside TensorBoard: wandb (Weights & Biases), mlflow."""
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)


def main(words: list[str]) -> int:
    """Run what `words` ask for, and return the exit status."""
    return run(shared.parse_new(TableSettings, words, command="table", description=_ABOUT))


def run(asked: TableSettings) -> int:
    """Run what is asked for and not done, and write the tables; return the exit status.

    Raises:
        UserError: for options that contradict each other.
    """
    jobs = table_jobs(asked)
    for job in jobs:
        job.config.validate()
    from mnemonics_jax.sweeps.jobs import job_lines, run_jobs

    if asked.list:
        print("\n".join(job_lines(jobs, asked.out)))
        return 0
    from mnemonics_jax.reports.own_files import table1_files
    from mnemonics_jax.reports.table1 import write
    from mnemonics_jax.runtime.compile_cache import use_persistent_cache
    from mnemonics_jax.runtime.progress import Display

    table1_files(stem(asked)).check(asked.out)
    use_persistent_cache()
    with Display(verbose=asked.verbose) as display:
        outcome = run_jobs(jobs, asked.out, display, asked.save, track=asked.track)
    print(write(asked))
    print(f"results: {asked.out}")
    return outcome.status
