"""Tables of finished runs, made from their summaries: for the terminal, and as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mnemonics_jax.reports.publish import FORGETTING_COLUMNS, Column, TextTable, publish, text_table
from mnemonics_jax.reports.statistics import FORGETTING, comparison, group_arms
from mnemonics_jax.runs.summary import Summary

_FORGETTING_CAPTION = (
    "points, mean ± standard error; base classes: first minus final accuracy on phase 0's classes; average: best "
    "earlier minus final, over all earlier groups; backward transfer: final minus on arrival"
)
_ACCURACY = Column("average", "average_accuracy", "highest")
_ACCURACY_EXEMPLARS = Column("average Θᴱ", "average_accuracy_exemplar_model", "highest")
_GAIN = Column("gain vs herding", "paired_gain_vs_herding", sign="+")
_GAIN_EXEMPLARS = Column("gain Θᴱ", "paired_gain_exemplar_model_vs_herding", sign="+")
_ERRORS = "mean ± standard error over class orders"
_PAIRED = f"{_ERRORS}; gains are paired by class order"


def write_report(summaries: list[Summary], out: Path) -> list[dict[str, Any]]:
    """Write comparison.json, .csv and .tex and accuracy.png into `out`; return the rows of the comparison."""
    # Imported here because Matplotlib takes a second, which the other tables should not wait for.
    from mnemonics_jax.reports.figures import accuracy_curves, save

    rows = comparison(summaries)
    write_comparison(rows, out)
    save(accuracy_curves(group_arms(summaries)), out / "accuracy.png")
    return rows


def write_comparison(rows: list[dict[str, Any]], out: Path) -> None:
    """Write the rows of a comparison into `out`: comparison.json, comparison.csv and comparison.tex."""
    publish(rows, _texts(rows), out / "comparison", "Comparison of class-incremental learning runs")


def comparison_tables(rows: list[dict[str, Any]]) -> Group:
    """Return the rows of comparison.json as two tables: accuracies with their gains, then what is forgotten.

    All are means ± standard errors over class orders, accuracies in percent, the rest in percentage points; the best of
    each method is bold. One table of it all would be wider than 120 columns.
    """
    return Group(*map(_rich, _texts(rows)))


def results_tables(rows: list[dict[str, Any]]) -> tuple[TextTable, TextTable]:
    """Return the rows of comparison.json as the two tables of a page: accuracies with their gains, what is forgotten.

    Minus signs are those of typography.
    """
    caption = "Mean ± standard error over class orders; a single order has no error; bold: the best of each method"
    columns = [_ACCURACY, _ACCURACY_EXEMPLARS, Column("last", "last_accuracy", "highest"), _GAIN, _GAIN_EXEMPLARS]
    return _text(rows, columns, caption + _same(rows)), _text(rows, FORGETTING_COLUMNS, caption)


def _texts(rows: list[dict[str, Any]]) -> list[TextTable]:
    accuracy = _text(rows, [_ACCURACY, _ACCURACY_EXEMPLARS, _GAIN, _GAIN_EXEMPLARS], _PAIRED + _same(rows))
    return [accuracy, _text(rows, FORGETTING_COLUMNS, _FORGETTING_CAPTION)]


def _text(rows: list[dict[str, Any]], columns: Sequence[Column], caption: str) -> TextTable:
    """Return a table of some columns, without those of Θᴱ if they repeat those of Θ in every row, or are empty."""
    if not _models_differ(rows):
        columns = [column for column in columns if column not in (_ACCURACY_EXEMPLARS, _GAIN_EXEMPLARS)]
    named = [{**row, "exemplars": row["exemplars"] or "none"} for row in rows]
    words = {"method": "method", "exemplars": "exemplars"}
    columns = [Column("orders", "seeds", form="d"), *columns]
    return text_table(named, words, columns, within="method", caption=caption, empty="–")


def _models_differ(rows: list[dict[str, Any]]) -> bool:
    pairs = [(row[f"{_ACCURACY.key}_mean"], row[f"{_ACCURACY_EXEMPLARS.key}_mean"]) for row in rows]
    return any(fitted is not None and abs(mean - fitted) >= 0.005 for mean, fitted in pairs)


def _same(rows: list[dict[str, Any]]) -> str:
    """Return the end of a caption that says why there is no column of Θᴱ, if there are values that it could show."""
    shown = any(row[f"{_ACCURACY_EXEMPLARS.key}_mean"] is not None for row in rows)
    return "; Θᴱ, fitted to the exemplars alone, has the same accuracies" if shown and not _models_differ(rows) else ""


def _rich(table: TextTable) -> Table:
    shown = Table(caption=table.caption)
    for number, heading in enumerate(table.headings):
        shown.add_column(heading, justify="left" if number < table.words else "right")
    for row, best in zip(table.cells, table.best, strict=True):
        cells = (Text(cell.replace("−", "-"), "bold" if mark else "") for cell, mark in zip(row, best, strict=True))
        shown.add_row(*cells)
    return shown


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
