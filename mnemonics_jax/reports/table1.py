"""The table of the paper's slides: finished runs beside the paper's figures, as Markdown, CSV, JSON and LaTeX."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mnemonics_jax.reports.finished_runs import read_finished
from mnemonics_jax.reports.own_files import TABLE1_AVERAGES
from mnemonics_jax.reports.publish import FORGETTING_COLUMNS, Column, TextTable, publish, text_table
from mnemonics_jax.reports.statistics import FORGETTING, mean_and_error, mean_of_runs
from mnemonics_jax.runs.folder import check_folder
from mnemonics_jax.runs.summary import Summary
from mnemonics_jax.runtime.files import write_atomically
from mnemonics_jax.sweeps.table1 import ARMS, METHODS, Cell, TableRequest, all_cells, folder, make, paper, place, stem


def finished(asked: TableRequest, cell: Cell) -> dict[int, Summary]:
    """Return the cell's finished runs by seed.

    Raises:
        UserError: when one has other settings, or its summary.json is not as a run has written it.
    """
    found = {}
    for path in sorted(asked.out.glob(f"{folder(asked, cell)}-seed*/summary.json")):
        summary = read_finished(path)
        check_folder(path.parent, make(asked, cell, summary["seed"]))
        found[summary["seed"]] = summary
    return found


def rows(asked: TableRequest) -> list[dict[str, Any]]:
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


def transferred(asked: TableRequest) -> bool:
    """Return whether a run with weight transfer is finished."""
    return any(asked.out.glob(f"{place(asked)}-n*/*-ours+transfer-seed*/summary.json"))


def markdown(asked: TableRequest, table: list[dict[str, Any]]) -> str:
    """Return the table as Markdown: average accuracy first, then what the slides do not have."""
    shown = tables(asked, table)
    lines = [
        f"# {title(asked)}",
        "",
        f"{TABLE1_AVERAGES} ± is the standard error over class orders (n of them); gains are "
        "over the row with herded exemplars, paired by class order, in points. Empty: not run.",
        "",
        "**Shortened protocol**: the paper's figures are of another data set, network and schedule; they are shown for "
        "the order of the rows alone, and no difference is taken."
        if asked.scale == "small"
        else 'The paper\'s "w/ ours" includes weight transfer, which rows "w/ ours" here do not.',
        "",
        *shown["average"].markdown(),
        "",
        "## Gain over herded exemplars",
        "",
        *shown["gain"].markdown(),
        "",
        "## Average accuracy of the model fitted to the exemplars alone (not in the slides)",
        "",
        *shown["fitted"].markdown(),
        "",
        "## Forgetting and backward transfer (not in the slides)",
        "",
        "In points. Forgetting (base classes), the paper's measure: accuracy of the first model minus that of the last "
        "on the first phase's classes. Forgetting (average): best earlier minus final accuracy on the classes of a "
        "phase, mean over all phases but the last. Backward transfer: final accuracy minus that on arrival, the same "
        "mean.",
        *(line for key in FORGETTING.values() for line in ("", *shown[key].markdown())),
    ]
    return "\n".join(lines) + "\n"


def title(asked: TableRequest) -> str:
    """Return what the table is of: data set, protocol and changed settings."""
    what = asked.dataset
    if asked.scale == "small":
        what = f"SHORTENED PROTOCOL on {asked.images or 'digits'} (figures of the paper: {asked.dataset})"
    if asked.recipe != "default":
        what += f", recipe {asked.recipe}"
    return what + (f", with {' '.join(asked.settings)}" if asked.settings else "")


def grid(table: list[dict[str, Any]], columns: Sequence[Column], caption: str = "") -> TextTable:
    """Return a table with rows by method and arm, and the given columns for each N; the best of each is marked."""
    cells = {(r["method"], r["arm"], r["phases"]): r for r in table}
    wide, heads = [], []
    for n in (5, 10, 25):
        for column in columns:
            counts = f"{n} {column.counts}" if column.counts else ""
            heads.append(
                dataclasses.replace(column, heading=f"N={n} {column.heading}", key=f"{n} {column.key}", counts=counts)
            )
    for method, arm in dict.fromkeys((r["method"], r["arm"]) for r in table):
        values = {f"{n} {key}": v for n in (5, 10, 25) for key, v in cells[method, arm, n].items()}
        wide.append({"row": METHODS[method] + ARMS[arm], **values})
    return text_table(wide, {"method": "row"}, heads, caption=caption)


def tables(asked: TableRequest, table: list[dict[str, Any]]) -> dict[str, TextTable]:
    """Return the tables that Markdown and LaTeX show, by name: `average`, `gain`, `fitted`, and those of forgetting."""
    learned = [row for row in table if row["arm"] != "baseline"]
    what = title(asked)
    here = Column("here", "average_accuracy", "highest", counts="seeds")
    average = (Column("paper", "paper_average_accuracy"), here, Column("difference", "difference", sign="+"))
    gain = (Column("paper", "paper_gain", sign="+"), Column("here", "gain", sign="+", counts="gain_seeds"))
    fitted = Column("Θᴱ", "average_accuracy_exemplar_model", "highest", counts="seeds")
    return {
        "average": grid(table, average, f"Average accuracy in percent, {what}"),
        "gain": grid(learned, gain, f"Gain over herded exemplars in points, {what}"),
        "fitted": grid(table, [fitted], f"Average accuracy of the model fitted to the exemplars alone, {what}"),
        **{
            column.key: grid(table, [dataclasses.replace(column, counts="seeds")], f"{column.heading}, {what}")
            for column in FORGETTING_COLUMNS
        },
    }


def write(asked: TableRequest) -> str:
    """Write table1-DATASET.md, .csv, .json and .tex, and return the Markdown."""
    table = rows(asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    text = markdown(asked, table)
    write_atomically(asked.out / f"{stem(asked)}.md", text)
    publish(table, list(tables(asked, table).values()), asked.out / stem(asked), title(asked))
    return text
