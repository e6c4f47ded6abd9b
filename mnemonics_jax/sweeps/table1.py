"""The table of the paper's slides: its cells as runs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mnemonics_jax.config.config import Config
from mnemonics_jax.config.parsing import has, override, pairs
from mnemonics_jax.config.presets import make_config
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.sweeps.job import Job, check_seeds

PAPER = json.loads((files("mnemonics_jax.sweeps") / "table1_paper.json").read_text())
"""The slides' figures."""
METHODS = {"lwf": "LwF", "icarl": "iCaRL", "bic": "BiC", "lucir": "LUCIR"}
ARMS = {"baseline": "", "ours": " w/ ours", "ours+transfer": " w/ ours and weight transfer"}
SMALL = {"train.epochs": "10", "train.later_epochs": "10", "exemplars.outer_steps": "50"}
"""Settings of the shortened protocol."""


@dataclass(frozen=True)
class TableRequest:
    """Part of the table to run, and the folder of the runs and of the tables."""

    dataset: Literal["cifar100", "imagenet", "imagenet-subset"] = "cifar100"
    """Column of the table. "ImageNet" in the slides is all 1,000 classes; they have no figures for the subset."""
    phases: tuple[Literal[5, 10, 25], ...] | None = None
    """Numbers N of incremental phases. None: all three; 5 alone for the digits of --scale small, which are ten classes.
    """
    methods: tuple[Literal["lwf", "icarl", "bic", "lucir"], ...] = tuple(METHODS)
    """Rows of the table."""
    arms: tuple[Literal["baseline", "ours", "ours+transfer"], ...] = ("baseline", "ours")
    """Exemplars: herded (baseline), learned (ours), learned with weight transfer (ours+transfer)."""
    recipe: str = "default"
    """Where settings start from: default, chosen by measurement on small networks, or paper, as close to the
    publication as its text goes. Weight transfer is left to the arms."""
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


def make(asked: TableRequest, cell: Cell, seed: int) -> Config:
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


def folder(asked: TableRequest, cell: Cell) -> str:
    """Return the folder of a cell's runs, without their seed."""
    return f"{place(asked)}-n{cell.phases}/{cell.method}-{cell.arm}"


def place(asked: TableRequest) -> str:
    """Return the part of file names that tells which table they belong to."""
    return asked.dataset if asked.scale == "full" else "small"


def stem(asked: TableRequest) -> str:
    """Return how the names of the table's own files begin."""
    return f"table1-{place(asked)}"


def all_cells(phases: tuple[int, ...], methods: tuple[str, ...], arms: tuple[str, ...]) -> Iterator[Cell]:
    """Yield the cells in the order in which they are run."""
    return (Cell(n, method, arm) for n in phases for method in methods for arm in arms)


def _all_phases(asked: TableRequest) -> tuple[int, ...]:
    return (5,) if asked.scale == "small" and not asked.images else tuple(PAPER["phases"])


def table_jobs(asked: TableRequest) -> list[Job]:
    """Return the runs that are asked for, seed by seed: an interrupted table has every cell on the same class orders.

    Raises:
        UserError: for a number of seeds that cannot be, options that contradict each other, and settings that do not
            exist.
    """
    check_seeds("--seeds", asked.seeds)
    if asked.images and asked.scale == "full":
        raise UserError("--images is for --scale small; the full protocol reads --set data.path=DIR")
    return [
        Job(f"{folder(asked, cell)}-seed{seed}", make(asked, cell, seed))
        for seed in range(asked.seeds)
        for cell in all_cells(asked.phases or _all_phases(asked), asked.methods, asked.arms)
    ]
