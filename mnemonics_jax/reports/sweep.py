"""Reports of a sweep: JSON, CSV, LaTeX and Markdown, and a plot of each result against the first swept setting."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # Draw without a display.

import matplotlib.pyplot as plt
import numpy as np

from mnemonics_jax.reports.own_files import SWEEP_ERRORS
from mnemonics_jax.reports.publish import (
    FORGETTING_COLUMNS,
    Column,
    TextTable,
    text_table,
    value_and_error,
    write_csv,
    write_latex,
)
from mnemonics_jax.reports.statistics import FORGETTING, mean_and_error, mean_of_runs
from mnemonics_jax.runs.summary import Summary
from mnemonics_jax.runtime.files import read_json, write_atomically, write_json
from mnemonics_jax.sweeps.compiled_memory import MEMORY_FILE
from mnemonics_jax.sweeps.jobs import FAILURE
from mnemonics_jax.sweeps.sweep import Settings, Sweep

Row = dict[str, Any]

FIGURES = ("average_accuracy", "average_accuracy_exemplar_model", *FORGETTING.values(), "seconds")
"""Keys of a point's row that hold means over class orders, each with `_mean` and `_sem`."""

_COLUMNS = (
    Column("average Θ (%)", "average_accuracy", "highest"),
    Column("average Θᴱ (%)", "average_accuracy_exemplar_model", "highest"),
    *FORGETTING_COLUMNS,
    Column("gain Θ over herding", "gain", "highest", sign="+"),
    Column("gain Θᴱ over herding", "gain_exemplar_model", "highest", sign="+"),
    Column("seconds (fastest order)", "seconds_least", "lowest"),
    Column("outer step (MB)", "outer_step_megabytes", "lowest"),
)


def write_sweep(sweep: Sweep, out: Path) -> str:
    """Write sweep.json, .csv, .md, .tex and .png into `out`; return the Markdown."""
    rows = sweep_rows(sweep, out)
    write_json(out / "sweep.json", {"sweep": vars(sweep), "points": rows})
    write_csv([_flat(row) for row in rows], out / "sweep.csv")
    table = _table(sweep, rows)
    write_latex([table], out / "sweep.tex", _title(sweep))
    text = _markdown(sweep, rows, table)
    write_atomically(out / "sweep.md", text)
    _plot(sweep, rows, out / "sweep.png")
    return text


def _flat(row: Row) -> Row:
    """Return a row of the CSV: settings and means, without the single runs."""
    plain = {key: value for key, value in row.items() if not isinstance(value, dict | list)}
    return {**row["settings"], "seeds": len(row["seeds"]), **plain, "failures": len(row["failures"])}


def _title(sweep: Sweep) -> str:
    fixed = " ".join(f"{name}={text}" for name, text in sweep.fixed.items())
    recipe = "" if sweep.recipe == "default" else f", recipe {sweep.recipe}"
    method = sweep.method or "its method"
    return f"{sweep.preset}{recipe}, {method}, {sweep.seeds} class orders{f', {fixed}' if fixed else ''}"


def _columns(sweep: Sweep) -> list[Column]:
    return [column for column in _COLUMNS if sweep.herding or not column.key.startswith("gain")]


def _table(sweep: Sweep, rows: list[Row]) -> TextTable:
    """Return a row for each point: its settings, its class orders, and the results, the best of them marked."""
    flat = [_flat(_with_megabytes(row)) for row in rows]
    words = {name.split(".")[-1]: name for name in sweep.axes}
    orders = Column("orders", "seeds", form="d")
    return text_table(flat, words, [orders, *_columns(sweep)], caption=f"Sweep of {_title(sweep)}")


def _markdown(sweep: Sweep, rows: list[Row], table: TextTable) -> str:
    lines = [
        f"# {_title(sweep)}",
        "",
        f"{SWEEP_ERRORS} Forgetting and backward transfer, of Θ and in points: base classes, first minus final "
        "accuracy on phase 0's classes; average, best earlier minus final accuracy on a phase's classes, mean over all "
        "phases but the last; backward transfer, final accuracy minus that on arrival, the same mean. Seconds are "
        "those of a whole run, including its base model even if another run has trained that. They are those of the "
        "fastest class order, because the first one may have to compile. The outer step's memory is the temporary "
        "memory of its compiled program.",
        "",
    ]
    lines += table.markdown()
    failed = [
        f"- {' '.join(f'{k}={v}' for k, v in row['settings'].items())}, seed {seed}: {message.splitlines()[-1]}"
        for row in rows
        for seed, message in row["failures"].items()
    ]
    if failed:
        lines += ["", "Failed (run the same command again to retry them):", "", *failed]
    return "\n".join(lines) + "\n"


def _with_megabytes(row: Row) -> Row:
    """Return a row with the memory of the outer step in megabytes, as tables and the plot show it."""
    return {**row, "outer_step_megabytes": row["outer_step_bytes"] and row["outer_step_bytes"] / 1e6}


def _plot(sweep: Sweep, rows: list[Row], path: Path) -> None:
    """Draw one panel for each result, with a line for each combination of the other swept settings."""
    shown = {column.heading: column.key for column in _columns(sweep)}
    first, *others = sweep.axes
    values = sweep.axes[first]
    numbers = [_number(value) for value in values]
    numeric = all(number is not None for number in numbers)
    places = dict(zip(values, numbers if numeric else range(len(values)), strict=True))
    lines: dict[str, list[Row]] = {}
    for row in map(_with_megabytes, rows):
        lines.setdefault(", ".join(row["settings"][name] for name in others), []).append(row)
    height = -(-len(shown) // 3)
    figure, panels = plt.subplots(height, 3, figsize=(12, 3.5 * height), layout="constrained")
    for axes, (head, key) in zip(panels.flat, shown.items(), strict=False):
        for name, points in lines.items():
            found = [(places[row["settings"][first]], *value_and_error(row, key)) for row in points]
            found = sorted((x, y, error or 0.0) for x, y, error in found if y is not None)
            if found:
                x, y, error = np.asarray(found).T
                axes.errorbar(x, y, error, marker="o", ms=4, capsize=2, label=name)
        axes.set(xlabel=first, ylabel=head)
        if numeric:
            axes.set_xticks([number for number in numbers if number is not None], values)
        else:
            axes.set_xticks(range(len(values)), values, rotation=30, ha="right")
        axes.grid(alpha=0.3)
        if key in ("seconds_least", "outer_step_megabytes"):
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    if others:
        panels.flat[0].legend(title=", ".join(name.split(".")[-1] for name in others), fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def sweep_rows(sweep: Sweep, out: Path) -> list[dict[str, Any]]:
    """Return a row for each point: its settings, means over its finished runs, and the messages of failed runs."""
    return [_row(sweep, point, out) for point in sweep.points()]


def _row(sweep: Sweep, point: Settings, out: Path) -> dict[str, Any]:
    folders = {seed: out / sweep.job(point, "mnemonics", seed).name for seed in range(sweep.seeds)}
    runs = _summaries(folders)
    row: dict[str, Any] = {"settings": point, "seeds": sorted(runs)}
    for key in FIGURES:
        row[key] = {seed: _figure(summary, key) for seed, summary in runs.items()}
        row[f"{key}_mean"], row[f"{key}_sem"] = mean_of_runs([{key: value} for value in row[key].values()], key)
    row["seconds_least"] = min(row["seconds"].values(), default=None)
    memories = [read_json(folder / MEMORY_FILE) for folder in folders.values() if (folder / MEMORY_FILE).exists()]
    row["outer_step_bytes"] = memories[0]["temporary_bytes"] if memories else None
    herded = {}
    if sweep.herding:
        herded = _summaries({seed: out / sweep.job(point, "herding", seed).name for seed in folders})
    for suffix, key in (("", "average_accuracy"), ("_exemplar_model", "average_accuracy_exemplar_model")):
        gains = [runs[seed][key] - herded[seed][key] for seed in sorted(runs.keys() & herded.keys())]
        row[f"gain{suffix}_mean"], row[f"gain{suffix}_sem"] = mean_and_error(gains)
    row["failures"] = {
        seed: read_json(folder / FAILURE)["message"] for seed, folder in folders.items() if (folder / FAILURE).exists()
    }
    return row


def _summaries(folders: dict[int, Path]) -> dict[int, Summary]:
    return {seed: read_json(f / "summary.json") for seed, f in folders.items() if (f / "summary.json").exists()}


def _figure(summary: Summary, key: str) -> float | None:
    """Return one result of a run; None if it has none, as one of an older version may.

    Its seconds include the base model, even if another run has trained that.
    """
    shared = summary["shared_base_model"] if key == "seconds" else None
    return summary[key] + shared["seconds"] if shared else summary.get(key)
