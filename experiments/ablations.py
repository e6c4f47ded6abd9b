"""Ablations of learned exemplars, a table each: one factor changes at a time, all else stays as the preset has it.

    python experiments/ablations.py kinds --preset images --set data.path=DIR --methods lwf icarl bic lucir
    python experiments/ablations.py unroll scope --preset digits --seeds 3 --list

Every row is compared with herding on the same class orders, at the same budget, with the same training and the same
inner loop for Θᴱ. Each table begins with its controls: no memory, random exemplars, herding, all data (joint). Where
random and herding do not differ by two standard errors, the table says that it cannot tell. Exemplars are learned
without the gate, which would replace those that an ablation is to show; the table `gate` compares both. Finished runs
are not run again; TABLE.md, .csv, .json and .tex in --out have the rows of all finished runs.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnemonics_jax.config.config import Config
from mnemonics_jax.config.parsing import has, override, pairs
from mnemonics_jax.config.presets import PRESETS, RECIPES, make_config
from mnemonics_jax.exemplars import EXEMPLARS
from mnemonics_jax.methods import METHODS, method_class
from mnemonics_jax.reports.own_files import OwnFiles, table_signs
from mnemonics_jax.reports.publish import Column, TextTable, cell_text, publish, text_table
from mnemonics_jax.reports.statistics import FORGETTING, mean_and_error, mean_of_runs
from mnemonics_jax.runs.summary import Summary
from mnemonics_jax.runtime.compile_cache import use_persistent_cache
from mnemonics_jax.runtime.errors import UserError, exit_status
from mnemonics_jax.runtime.files import write_atomically
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.sweeps.job import Job, check_seeds
from mnemonics_jax.sweeps.jobs import run_jobs

Settings = dict[str, str]

_CLOSED = {"exemplars.inner_init": "class_means", "exemplars.unroll_length": "0", "exemplars.inner_scope": "head"}
_LOOP = {"exemplars.inner_init": "reset_head", "exemplars.inner_scope": "head"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: an exemplar kind under settings that differ from the preset's."""

    label: str
    settings: Settings = dataclasses.field(default_factory=dict)
    kind: str = "mnemonics"
    method: str | None = None
    """Method of a control that is the same for all methods; None: the method of the table's row."""


def _each(name: str, values: list[Any], also: Settings | None = None, kind: str = "mnemonics") -> list[Row]:
    return [Row(f"{name} {value}", {f"exemplars.{name}": str(value), **(also or {})}, kind) for value in values]


NO_MEMORY, JOINT = Row("no memory", kind="herding", method="finetune"), Row("all data", kind="herding", method="joint")
RANDOM, HERDING = Row("random", kind="random"), Row("herding", kind="herding")

TABLES: dict[str, tuple[str, list[Row]]] = {
    "kinds": ("Exemplar kinds", [Row("gradient", kind="gradient"), Row("learned")]),
    "gain": ("Learned exemplars against herding", [Row("learned")]),
    "adjust": ("Adjusting old exemplars", _each("adjust", ["false", "true"])),
    "budget": (
        "Exemplars per class",
        [
            Row(f"{kind}, per_class {amount}", {"exemplars.per_class": str(amount)}, kind)
            for amount in (1, 2, 5, 20)
            for kind in ("random", "gradient", "mnemonics")
        ],
    ),
    "unroll": (
        "Unroll length, from class means and from a new head",
        [
            Row("gradient", kind="gradient"),
            Row("class means, T = 0", _CLOSED),
            *(
                Row(f"class means, T = {t}", {**_CLOSED, "exemplars.unroll_length": str(t)})
                for t in (1, 2, 5, 10, 20, 50)
            ),
            *(Row(f"new head, T = {t}", {**_LOOP, "exemplars.unroll_length": str(t)}) for t in (1, 2, 5, 10, 20, 50)),
        ],
    ),
    "inner-start": (
        "Where the inner loop starts, T = 5 on the whole network",
        [
            Row(init, {"exemplars.inner_init": init, "exemplars.unroll_length": "5", "exemplars.inner_scope": "all"})
            for init in ("class_means", "current", "reset_head", "previous", "perturbed", "partly_reset", "fresh")
        ],
    ),
    "scope": (
        "What the inner loop trains, T = 5 from class means",
        _each(
            "inner_scope",
            ["head", "last_stage", "all"],
            {"exemplars.inner_init": "class_means", "exemplars.unroll_length": "5"},
        ),
    ),
    "anchor": ("Weight of the anchor", _each("anchor", [0, 5, 20, 60])),
    "change-cap": ("Farthest a pixel may move", _each("change_cap", [0.02, 0.05, 0.12, 0.3, 1])),
    "outer-steps": ("Outer steps", _each("outer_steps", [50, 100, 200, 400])),
    "begin": ("Images that learning starts from", _each("start", ["herding", "random", "gradient"])),
    "typicality": ("Typical images in the choice by gradients", _each("typicality", [0, 1.5, 5, 15], kind="gradient")),
    "gate": ("Learned exemplars with and without the gate", _each("gate", ["false", "true"])),
    "augment": (
        "Crops and flips while learning",
        [
            Row(
                f"inner {inner}, outer {outer}",
                {"exemplars.inner_augment": str(inner).lower(), "exemplars.outer_augment": str(outer).lower()},
            )
            for inner in (True, False)
            for outer in (True, False)
        ],
    ),
}

BLOCKS = (
    {"average_accuracy": "average Θ", "average_accuracy_exemplar_model": "average Θᴱ"},
    {key: f"{name} Θ" for name, key in FORGETTING.items()},
    {f"{key}_exemplar_model": f"{name} Θᴱ" for name, key in FORGETTING.items()},
)
"""Results by their key in a summary, and their headings. TABLE.md has a table for each block, TABLE.csv one of all."""
COLUMNS = {key: heading for block in BLOCKS for key, heading in block.items()}


@dataclasses.dataclass(frozen=True)
class Ablations:
    """The runs of some tables: the configuration of each, and the folder of its run."""

    preset: str
    fixed: Settings
    methods: list[str]
    seeds: Sequence[int]
    recipe: str = "default"

    def config(self, row: Row, method: str, seed: int) -> Config:
        """Return the configuration of a row's run.

        Raises:
            UserError: for a setting that no exemplar kind has, or a value that it does not take.
        """
        method = row.method or method
        plain = make_config(self.preset, method, row.kind, self.recipe)
        settings = {"exemplars.gate": "false", **self.fixed, **row.settings}
        # Settings that only other exemplar kinds have are left out; a name that no kind has is refused.
        others = [make_config(self.preset, method, kind, self.recipe) for kind in EXEMPLARS]
        kept = {k: v for k, v in settings.items() if has(plain, k) or not any(has(other, k) for other in others)}
        return dataclasses.replace(override(plain, kept), seed=seed)

    def job(self, row: Row, method: str, seed: int) -> Job:
        """Return a row's run. Rows of several tables that ask for the same configuration share it."""
        config = self.config(row, method, seed)
        plain = self.config(Row("", kind=row.kind), method, seed)
        changed = [
            f"{f.name}-{getattr(config.exemplars, f.name)}"
            for f in dataclasses.fields(config.exemplars)
            if getattr(config.exemplars, f.name) != getattr(plain.exemplars, f.name)
        ]
        arm = row.method or f"{method}-{row.kind}"
        return Job("/".join([arm, "_".join(changed) or "preset", f"seed{seed}"]), config)

    def twin(self, row: Row) -> Row:
        """Return the row of herding under the settings that it shares with `row`."""
        return dataclasses.replace(HERDING, settings=row.settings)

    def jobs(self, tables: list[str]) -> list[Job]:
        """Return all runs of the tables, each once; seeds outermost, so that finished runs are paired at any time."""
        rows = [NO_MEMORY, RANDOM, JOINT, *(row for table in tables for row in TABLES[table][1])]
        found: dict[str, Job] = {}
        for seed in self.seeds:
            for method in self.methods:
                for row in rows:
                    for one in (self.twin(row), row):
                        job = self.job(one, method, seed)
                        found.setdefault(job.name, job)
        return list(found.values())

    def cells(self, table: str, summaries: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows of a table: means over class orders and paired differences from herding, with errors."""
        lines = []
        for method in self.methods:
            for row in [NO_MEMORY, RANDOM, HERDING, JOINT, *TABLES[table][1]]:
                mine, herding = (
                    {seed: summaries.get(self.job(one, method, seed).name) for seed in self.seeds}
                    for one in (row, self.twin(row))
                )
                done = [seed for seed in self.seeds if mine[seed] and herding[seed]]
                line: dict[str, Any] = {"method": method, "exemplars": row.label, "orders": len(done)}
                for key in COLUMNS:
                    line[key], line[f"{key}_sem"] = mean_of_runs([mine[seed] for seed in done], key)
                    gains = _gains(mine, herding, done, key) if row != HERDING else []
                    line[f"{key}_gain"], line[f"{key}_gain_sem"] = mean_and_error(gains)
                line["seconds"], _ = mean_and_error([mine[seed]["seconds"] for seed in done])
                lines.append(line)
        return lines


def _gains(mine: dict[int, Summary], herding: dict[int, Summary], seeds: list[int], key: str) -> list[float]:
    """Return the differences mine − herding by seed; empty if a run lacks the value, as one of an older version may."""
    values = [(mine[seed].get(key), herding[seed].get(key)) for seed in seeds]
    return [] if any(None in pair for pair in values) else [one - other for one, other in values]


def own_files(table: str) -> OwnFiles:
    """Return the files of a table, and how they begin."""
    return OwnFiles("ablation", {f"{table}.md": _heading(table), **table_signs(table, "method", "exemplars", "orders")})


def _heading(table: str) -> str:
    return f"**{TABLES[table][0]}**"


def write_table(table: str, ablations: Ablations, summaries: dict[str, dict[str, Any]], out: Path) -> str:
    """Write TABLE.csv and .json with all figures, .tex and .md without seconds; return the text of the latter."""
    lines = ablations.cells(table, summaries)
    shown = [_text_table(block, TABLES[table][0], lines) for block in BLOCKS]
    publish(lines, shown, out / table, f"{TABLES[table][0]}, {ablations.preset}")
    text = [_heading(table), *(line for block in shown for line in ("", *block.markdown()))]
    text += ["", *(verdict for line in lines if (verdict := _verdict(line)))]
    write_atomically(out / f"{table}.md", "\n".join(text) + "\n")
    return "\n".join(text)


def _text_table(block: dict[str, str], title: str, lines: list[dict[str, Any]]) -> TextTable:
    """Return some results and their differences from herding as text; the best of each method is marked."""
    lowest = set(FORGETTING.values()) - {"backward_transfer"}
    best = {key: "lowest" if key.removesuffix("_exemplar_model") in lowest else "highest" for key in block}
    columns = [Column("orders", "orders", form="d"), *(Column(name, key, best[key]) for key, name in block.items())]
    columns += [Column(f"{name}, difference", f"{key}_gain", sign="+") for key, name in block.items()]
    words = {"method": "method", "exemplars": "exemplars"}
    # Nothing competes with the bounds.
    bounds = [number for number, line in enumerate(lines) if line["exemplars"] in (NO_MEMORY.label, JOINT.label)]
    return text_table(lines, words, columns, within="method", unranked=bounds, caption=title)


def _verdict(line: dict[str, Any]) -> str | None:
    """Return whether a method's Θ tells random exemplars from herded ones, by two standard errors, for that control."""
    if line["exemplars"] != RANDOM.label:
        return None
    gain, error = line["average_accuracy_gain"], line["average_accuracy_gain_sem"]
    if error is None:
        return f"- {line['method']}: one class order cannot tell random from herded exemplars."
    tells = abs(gain) >= 2 * error
    end = "this regime tells exemplars apart." if tells else "too little to tell exemplars apart in this regime."
    difference = cell_text(line, Column("", "average_accuracy_gain", sign="+"))
    return f"- {line['method']}: random exemplars differ from herding by {difference}: {end}"


def main(words: list[str] | None = None) -> int:
    """Run what is missing and write the tables; return the exit status, 3 when a run failed.

    Raises:
        UserError: for a method without exemplars, fewer than one class order, or a wrong setting.
    """
    names = "\n".join(f"  {name:12} {title}" for name, (title, _) in TABLES.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\ntables:\n{names}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=list(TABLES), metavar="TABLE", help="names from the list above")
    parser.add_argument("--preset", default="digits", help=f"one of {', '.join(PRESETS)} (default: digits)")
    parser.add_argument("--recipe", default="default", help=f"one of {', '.join(RECIPES)} (default: default)")
    parser.add_argument("--methods", nargs="+", default=["lwf", "icarl", "bic", "lucir"], help=", ".join(METHODS))
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="number of class orders (default: 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first class order (default: 0)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="settings of every run, for example data.path=DIR"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="folder of the runs and the tables")
    parser.add_argument(
        "--vmap-seeds", action="store_true", help="run a row's class orders at once, as one program, on a GPU or TPU"
    )
    parser.add_argument("--list", action="store_true", help="only print the planned runs and which are done")
    asked = parser.parse_args(words)
    for method in asked.methods:
        if not method_class(method).uses_memory:
            raise UserError(f"--methods {method} keeps no exemplars: there is nothing to compare")
    check_seeds("--seeds", asked.seeds)
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    ablations = Ablations(asked.preset, pairs(asked.set, "--set"), asked.methods, seeds, asked.recipe)
    jobs = ablations.jobs(asked.tables)
    if asked.list:
        for job in jobs:
            print("done " if (asked.out / job.name / "summary.json").exists() else "to do", job.name)
        return 0
    for table in asked.tables:
        own_files(table).check(asked.out)
    use_persistent_cache()
    with Display() as display:
        outcome = run_jobs(jobs, asked.out, display, vmap_seeds=asked.vmap_seeds)
    for table in asked.tables:
        print(write_table(table, ablations, outcome.summaries, asked.out), end="\n\n")
    return outcome.status


if __name__ == "__main__":
    with exit_status("ablations"):
        sys.exit(main())
