"""Tables of finished runs in a terminal."""

import io

from report_helpers import only, write_run
from rich.console import Console

from mnemonics_jax.reports.finished_runs import find_finished_runs
from mnemonics_jax.reports.statistics import comparison
from mnemonics_jax.reports.tables import comparison_tables, run_table


def table_lines(renderable, width=120):
    """What a terminal of that width shows."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text().splitlines()


def arms_of(tmp_path, **figures):
    """Comparison rows of arms with the longest names and figures, two class orders each."""
    for method in ("finetune", "lucir"):
        for seed in (0, 1):
            write_run(
                tmp_path / f"{method}{seed}", method=method, seed=seed, **{k: v - seed for k, v in figures.items()}
            )
            write_run(tmp_path / f"{method}{seed}-h", method=method, seed=seed, exemplars="herding")
    return comparison([run.summary for run in find_finished_runs([tmp_path])])


def test_tables_name_forgetting_apart_and_fit_120_columns(tmp_path):
    figures = {"forgetting": 30.5, "average_forgetting": 20.25, "backward_transfer": -110.0}
    figures |= {"average_accuracy_exemplar_model": 70.0}
    rows = arms_of(tmp_path, **figures)
    # A terminal without an end shows how wide the tables are.
    lines = table_lines(comparison_tables(rows), width=400)
    shown = [line for line in lines if "│" in line or "┃" in line]
    assert max(map(len, shown)) <= 120
    (head,) = [line for line in lines if "forgetting" in line and "┃" in line]
    assert [cell.strip() for cell in head.strip("┃").split("┃")][3:] == [
        "forgetting (base classes)",
        "forgetting (average)",
        "backward transfer",
    ]
    (first, _) = [line for line in lines if "lucir" in line and "mnemonics" in line]
    assert "50.00 ± 0.00" in first
    (second,) = [line for line in lines if "lucir" in line and "-110.50 ± 0.50" in line]
    cells = [cell.strip() for cell in second.strip("│").split("│")]
    assert cells == ["lucir", "mnemonics", "2", "30.00 ± 0.50", "19.75 ± 0.50", "-110.50 ± 0.50"]


def test_an_older_summary_has_a_dash_for_what_it_lacks(tmp_path):
    rows = arms_of(tmp_path, forgetting=30.5)
    lines = table_lines(comparison_tables(rows))
    (line,) = [line for line in lines if "lucir" in line and "30.00 ± 0.50" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")][3:] == ["30.00 ± 0.50", "–", "–"]
    summary = {**only(tmp_path / "lucir0").summary, "memory_bytes": 1, "memory_dtype": "uint8", "seconds": 1.0}
    summary |= {"backend": "cpu", "compilations": 1, "accuracy_exemplar_model": None}
    caption = " ".join(run_table(summary).caption.split())
    assert "forgetting (base classes) 30.50 points, forgetting (average) –, backward transfer –; memory" in caption
    summary |= {"average_forgetting": 20.0, "backward_transfer": -15.0}
    caption = run_table(summary).caption
    assert "forgetting (average) 20.00 points, backward transfer -15.00 points; memory" in caption
