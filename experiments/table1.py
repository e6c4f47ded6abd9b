"""The table of the paper's slides: every cell as runs, with their result beside the paper's figure.

    python experiments/table1.py --dataset cifar100 --list
    python experiments/table1.py --dataset cifar100 --phases 5 --methods lucir --seeds 3 --out runs/table1
    python experiments/table1.py --scale small --phases 5 --out runs/table1-small

A cell is a data set, N, a method and an arm: `baseline` replays herded exemplars, `ours` learned ones, and
`ours+transfer` learned ones with weight transfer, which the paper's "w/ ours" included. The same command goes on where
it stopped and runs only what is missing; runs that start the same train phase 0 once. table1-DATASET.md and .csv in
--out have everything that is finished there, whatever part of the table the command names; cells without a run are
empty. Exit status 3: a run failed (failure.json in its folder); the same command tries it again.

--scale small is a shortened protocol for small machines: scikit-learn's digits (N = 5 only), or images of your own
(--images DIR), a small network, ten epochs, fifty outer steps. Its results are labelled so in table1-small.md and .csv,
and no difference from the paper's figures is taken.
"""

import csv
import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mnemonics_jax.config.config import Config
from mnemonics_jax.config.parsing import has, override, pairs
from mnemonics_jax.config.presets import make_config
from mnemonics_jax.reports.statistics import FORGETTING, mean_and_error, mean_of_runs
from mnemonics_jax.runs.folder import check_folder
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.summary import Summary
from mnemonics_jax.runtime.compile_cache import use_persistent_cache
from mnemonics_jax.runtime.errors import UserError, exit_status
from mnemonics_jax.runtime.files import read_json, write_atomically
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.sweeps.jobs import Job, progress, run_jobs

PAPER = json.loads((Path(__file__).parent / "table1_paper.json").read_text())
METHODS = {"lwf": "LwF", "icarl": "iCaRL", "bic": "BiC", "lucir": "LUCIR"}
ARMS = {"baseline": "", "ours": " w/ ours", "ours+transfer": " w/ ours and weight transfer"}
SMALL = {"train.epochs": "10", "train.later_epochs": "10", "exemplars.outer_steps": "50"}


@dataclass(frozen=True)
class Asked:
    """Part of the table to run, and where."""

    dataset: Literal["cifar100", "imagenet", "imagenet-subset"] = "cifar100"
    """Column of the table. "ImageNet" in the slides is all 1,000 classes; they have no figures for the subset."""
    phases: tuple[Literal[5, 10, 25], ...] = (5, 10, 25)
    """Numbers N of incremental phases."""
    methods: tuple[Literal["lwf", "icarl", "bic", "lucir"], ...] = tuple(METHODS)
    """Rows of the table."""
    arms: tuple[Literal["baseline", "ours", "ours+transfer"], ...] = ("baseline", "ours")
    """Exemplars: herded (baseline), learned (ours), learned with weight transfer (ours+transfer)."""
    recipe: str = "default"
    """Where settings start from: default, what has been measured to work, or paper, as close to the publication as its
    text goes. Weight transfer is left to the arms."""
    seeds: int = 3
    """Number of class orders of each cell: seeds 0 .. seeds-1."""
    scale: Literal["full", "small"] = "full"
    """The paper's protocol, or a shortened one for small machines."""
    images: Path | None = None
    """With --scale small: a folder DIR/{train,test}/CLASS/*.jpg to use instead of the digits."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="FIELD=VALUE ...")] = ()
    """Settings to change in every run, as exemplars.unroll_length=20 data.path=DIR; every output names them."""
    out: Path = Path("runs/table1")
    """Folder of the runs and of the tables."""
    list: bool = False
    """Only print the planned runs and which are done."""
    save: SaveConfig = dataclasses.field(default_factory=SaveConfig)


@dataclass(frozen=True)
class Cell:
    """A cell of the table."""

    phases: int
    method: str
    arm: str

    @property
    def row(self) -> str:
        """Name of the row."""
        return METHODS[self.method] + ARMS[self.arm]


def paper(dataset: str, cell: Cell) -> float | None:
    """Return the slides' figure; None where they have none.

    Their "ours" includes weight transfer. It stands beside both arms with learned exemplars.
    """
    figures = PAPER["average_accuracy"].get(dataset)
    arm = "baseline" if cell.arm == "baseline" else "ours"
    return figures and figures[cell.method][arm][PAPER["phases"].index(cell.phases)]


def make(asked: Asked, cell: Cell, seed: int) -> Config:
    """Return the configuration of one run."""
    preset = asked.dataset
    if asked.scale == "small":
        preset = "images" if asked.images else "digits"
    config = make_config(preset, cell.method, "herding" if cell.arm == "baseline" else "mnemonics", asked.recipe)
    settings = {} if asked.scale == "full" else SMALL | ({"data.path": str(asked.images)} if asked.images else {})
    settings = settings | pairs(asked.settings, "--set")
    if cell.arm == "baseline":
        # Settings of learned exemplars mean nothing to herded ones; a name that neither has is refused all the same.
        override(make_config(preset, cell.method, "mnemonics", asked.recipe), settings)
        settings = {name: text for name, text in settings.items() if has(config, name)}
    settings |= {"stream.phases": str(cell.phases), "seed": str(seed)}
    if cell.arm != "baseline":
        # The arms say what weight transfer adds, whatever the recipe.
        settings["net.weight_transfer"] = str(cell.arm == "ours+transfer").lower()
    return override(config, settings)


def folder(asked: Asked, cell: Cell) -> str:
    """Return the folder of a cell's runs, without their seed."""
    return f"{place(asked)}-n{cell.phases}/{cell.method}-{cell.arm}"


def place(asked: Asked) -> str:
    """Return the part of file names that tells which table they belong to."""
    return asked.dataset if asked.scale == "full" else "small"


def finished(asked: Asked, cell: Cell) -> dict[int, Summary]:
    """Return the cell's finished runs by seed.

    Raises:
        UserError: when one has other settings.
    """
    found = {}
    for path in sorted(asked.out.glob(f"{folder(asked, cell)}-seed*/summary.json")):
        summary = read_json(path)
        check_folder(path.parent, make(asked, cell, summary["seed"]))
        found[summary["seed"]] = summary
    return found


def all_cells(phases: tuple[int, ...], methods: tuple[str, ...], arms: tuple[str, ...]) -> Iterator[Cell]:
    """Yield the cells in the order in which they are run."""
    return (Cell(n, method, arm) for n in phases for method in methods for arm in arms)


def rows(asked: Asked) -> list[dict[str, Any]]:
    """Return the table, a row for each cell: the paper's figure, ours, and the difference."""
    arms = tuple(arm for arm in ARMS if arm != "ours+transfer" or arm in asked.arms or transferred(asked))
    table = []
    for cell in all_cells((5, 10, 25), tuple(METHODS), arms):
        runs, baseline = finished(asked, cell), finished(asked, Cell(cell.phases, cell.method, "baseline"))
        row: dict[str, Any] = {
            "dataset": asked.dataset,
            "phases": cell.phases,
            "method": cell.method,
            "arm": cell.arm,
            "scale": asked.scale,
            "recipe": asked.recipe,
            "settings": " ".join(asked.settings),
            "seeds": len(runs),
            "paper_average_accuracy": paper(asked.dataset, cell),
        }
        for key in ("average_accuracy", "average_accuracy_exemplar_model", *FORGETTING.values(), "seconds"):
            row[f"{key}_mean"], row[f"{key}_sem"] = mean_of_runs(runs.values(), key)
        row["difference"] = None
        if asked.scale == "full" and runs and row["paper_average_accuracy"] is not None:
            row["difference"] = row["average_accuracy_mean"] - row["paper_average_accuracy"]
        both = sorted(runs.keys() & baseline.keys()) if cell.arm != "baseline" else []
        gains = [runs[seed]["average_accuracy"] - baseline[seed]["average_accuracy"] for seed in both]
        row["gain_seeds"] = len(gains)
        row["gain_mean"], row["gain_sem"] = mean_and_error(gains)
        row["paper_gain"] = None
        base = paper(asked.dataset, dataclasses.replace(cell, arm="baseline"))
        if cell.arm != "baseline" and base is not None:
            row["paper_gain"] = row["paper_average_accuracy"] - base
        table.append(row)
    return table


def transferred(asked: Asked) -> bool:
    """Return whether a run with weight transfer is finished."""
    return any(asked.out.glob(f"{place(asked)}-n*/*-ours+transfer-seed*/summary.json"))


def markdown(asked: Asked, table: list[dict[str, Any]]) -> str:
    """Return the table as Markdown: average accuracy first, then what the slides do not have."""
    lines = [
        f"# {title(asked)}",
        "",
        "Average accuracy of A_0 .. A_N in percent; ± is the standard error over class orders (n of them); gains are "
        "over the row with herded exemplars, paired by class order, in points. Empty: not run.",
        "",
        "**Shortened protocol**: the paper's figures are of another data set, network and schedule; they are shown for "
        "the order of the rows alone, and no difference is taken."
        if asked.scale == "small"
        else 'The paper\'s "w/ ours" includes weight transfer, which rows "w/ ours" here do not.',
        "",
        *grid(table, {"paper": "paper_average_accuracy", "here": "average_accuracy", "difference": "difference"}),
        "",
        "## Gain over herded exemplars",
        "",
        *grid([r for r in table if r["arm"] != "baseline"], {"paper": "paper_gain", "here": "gain"}, sign="+"),
        "",
        "## Average accuracy of the model fitted to the exemplars alone (not in the slides)",
        "",
        *grid(table, {"Θᴱ": "average_accuracy_exemplar_model"}),
        "",
        "## Forgetting and backward transfer (not in the slides)",
        "",
        "In points. Forgetting (base classes), the paper's measure: accuracy of the first model minus that of the last "
        "on the first phase's classes. Forgetting (average): best earlier minus final accuracy on the classes of a "
        "phase, mean over all phases but the last. Backward transfer: final accuracy minus that on arrival, the same "
        "mean.",
        *(line for name, key in FORGETTING.items() for line in ("", *grid(table, {name: key}))),
    ]
    return "\n".join(lines) + "\n"


def title(asked: Asked) -> str:
    """Return what the table is of: data set, protocol and changed settings."""
    what = asked.dataset
    if asked.scale == "small":
        what = f"SHORTENED PROTOCOL on {asked.images or 'digits'} (figures of the paper: {asked.dataset})"
    if asked.recipe != "default":
        what += f", recipe {asked.recipe}"
    return what + (f", with {' '.join(asked.settings)}" if asked.settings else "")


def grid(table: list[dict[str, Any]], columns: dict[str, str], sign: str = "") -> list[str]:
    """Return lines of a Markdown table: rows by method and arm, the given figures for each N."""
    cells = {(r["method"], r["arm"], r["phases"]): r for r in table}
    heads = ["method", *[f"N={n} {name}" for n in (5, 10, 25) for name in columns]]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for method, arm in dict.fromkeys((r["method"], r["arm"]) for r in table):
        values = [METHODS[method] + ARMS[arm]]
        for n in (5, 10, 25):
            for key in columns.values():
                values.append(figure(cells[method, arm, n], key, "+" if key == "difference" else sign))
        lines.append("| " + " | ".join(values) + " |")
    return lines


def figure(row: dict[str, Any], key: str, sign: str) -> str:
    """Return a figure as text, with its standard error and number of class orders where it has them."""
    value = row.get(f"{key}_mean", row.get(key))
    if value is None:
        return ""
    error = row.get(f"{key}_sem")
    counted = f" (n={row['gain_seeds' if key == 'gain' else 'seeds']})" if f"{key}_mean" in row else ""
    return f"{value:{sign}.2f}" + (f" ± {error:.2f}" if error is not None else "") + counted


def write(asked: Asked) -> str:
    """Write both files and return the Markdown."""
    table = rows(asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    text = markdown(asked, table)
    write_atomically(asked.out / f"table1-{place(asked)}.md", text)
    with (asked.out / f"table1-{place(asked)}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return text


def main(asked: Asked) -> int:
    """Run what is asked for and not done, and write the tables; return the exit status.

    Raises:
        UserError: for options that contradict each other.
    """
    if asked.seeds < 1:
        raise UserError(f"--seeds {asked.seeds}: at least one class order is needed")
    if asked.images and asked.scale == "full":
        raise UserError("--images is for --scale small; the full protocol reads --set data.path=DIR")
    jobs = [
        Job(f"{folder(asked, cell)}-seed{seed}", make(asked, cell, seed))
        # Seeds outermost: an interrupted table has every cell on the same class orders.
        for seed in range(asked.seeds)
        for cell in all_cells(asked.phases, asked.methods, asked.arms)
    ]
    if asked.list:
        for job in jobs:
            check_folder(asked.out / job.name, job.config)
            state = progress(asked.out / job.name)
            done = (
                f"{read_json(asked.out / job.name / 'summary.json')['average_accuracy']:.2f}" if state == "done" else ""
            )
            print(f"{state:6} {job.name} {done}".rstrip())
        return 0
    use_persistent_cache()
    with Display() as display:
        outcome = run_jobs(jobs, asked.out, display, asked.save)
    print(write(asked))
    return outcome.status


if __name__ == "__main__":
    with exit_status("table1"):
        sys.exit(main(tyro.cli(Asked, description=__doc__)))
