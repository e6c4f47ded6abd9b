"""Tables and plots of finished runs, made from their summaries."""

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mnemonics_jax.reports.figures import accuracy_curves
from mnemonics_jax.reports.statistics import FORGETTING, comparison, group_arms
from mnemonics_jax.runs.summary import Summary
from mnemonics_jax.runtime.files import write_json

_FORGETTING_CAPTION = (
    "points, mean ± standard error; base classes: first minus final accuracy on phase 0's classes; average: best "
    "earlier minus final, over all earlier groups; backward transfer: final minus on arrival"
)


def write_report(summaries: list[Summary], out: Path) -> list[dict[str, Any]]:
    """Write comparison.json and accuracy.png into `out`; return the rows of the comparison."""
    rows = comparison(summaries)
    write_json(out / "comparison.json", rows)
    accuracy_curves(group_arms(summaries), out / "accuracy.png")
    return rows


def comparison_tables(rows: list[dict[str, Any]]) -> Group:
    """Return the rows of comparison.json as two tables: accuracies with their gains, then what is forgotten.

    All are means ± standard errors over class orders, accuracies in percent, the rest in percentage points. One table
    of it all would be wider than 120 columns.
    """
    accuracy = {"average": "average_accuracy", "average Θᴱ": "average_accuracy_exemplar_model"}
    gains = {"gain vs herding": "paired_gain_vs_herding", "gain Θᴱ": "paired_gain_exemplar_model_vs_herding"}
    caption = "mean ± standard error over class orders; gains are paired by class order"
    return Group(_table(rows, accuracy, gains, caption), _table(rows, FORGETTING, {}, _FORGETTING_CAPTION))


def _table(rows: list[dict[str, Any]], figures: dict[str, str], gains: dict[str, str], caption: str) -> Table:
    """Return a table of some results of comparison.json; each is named by its heading."""
    table = Table("method", "exemplars", caption=caption)
    for heading in ("orders", *figures, *gains):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["method"],
            row["exemplars"] or "none",
            str(row["seeds"]),
            *(mean_and_error_text(row, name) for name in figures.values()),
            *(mean_and_error_text(row, name, sign="+") for name in gains.values()),
        )
    return table


def run_table(summary: Summary) -> Table:
    """Return a table of one run, phase by phase.

    Its columns: accuracy over all seen classes, that of Θ_i^E, and accuracy on the classes of each phase.
    """
    kind = f" with {summary['exemplars']} exemplars" if summary["exemplars"] else ""
    table = Table(
        title=Text(f"{summary['method']}{kind} on {summary['dataset']}, seed {summary['seed']}"),
        caption=f"average accuracy {summary['average_accuracy']:.2f} %, last {summary['last_accuracy']:.2f} %, "
        f"{_forgetting(summary)}; memory {summary['memory_bytes']:,} bytes "
        f"({summary['memory_dtype']}); {summary['seconds']:.0f} s on {summary['backend']}, "
        f"{summary['compilations']} compilations",
    )
    table.add_column("phase", justify="right")
    table.add_column("classes", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("of Θᴱ", justify="right")
    table.add_column("by group of classes, in order of arrival", overflow="fold")
    for phase, row in enumerate(summary["accuracy_matrix"]):
        fitted = summary["accuracy_exemplar_model"]
        table.add_row(
            str(phase),
            str(summary["seen_classes"][phase]),
            f"{summary['accuracy'][phase]:.2f}",
            f"{fitted[phase]:.2f}" if fitted else "–",
            " ".join(f"{value:.0f}" for value in row if value is not None),
        )
    return table


def _forgetting(summary: Summary) -> str:
    """Return the figures of `FORGETTING` as text; a dash for one that a run of an older version lacks."""
    values = {name: summary.get(key) for name, key in FORGETTING.items()}
    return ", ".join(f"{name} {'–' if value is None else f'{value:.2f} points'}" for name, value in values.items())


def mean_and_error_text(row: dict[str, Any], name: str, sign: str = "") -> str:
    """Return mean ± standard error of a row of comparison.json, the mean alone, or a dash if there is none."""
    mean, error = row[f"{name}_mean"], row.get(f"{name}_sem")
    if mean is None:
        return "–"
    return f"{mean:{sign}.2f}" + (f" ± {error:.2f}" if error is not None else "")
