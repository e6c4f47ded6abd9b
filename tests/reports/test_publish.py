"""Tables to publish: CSV, JSON, LaTeX and Markdown of the same rows, with the best cells marked."""

import csv
import json
import re

import numpy as np
import pytest

from mnemonics_jax.reports.publish import Column, best_rows, publish, text_table
from mnemonics_jax.reports.statistics import comparison
from mnemonics_jax.reports.tables import results_tables, write_comparison

ROWS = [
    {"method": "a_b", "kind": "x", "seeds": 2, "score_mean": 90.004, "score_sem": 1.5, "loss": 3.0, "extra": None},
    {"method": "a_b", "kind": "y", "seeds": 2, "score_mean": 89.996, "score_sem": None, "loss": 2.0, "extra": 1},
    {"method": "c", "kind": "x", "seeds": 1, "score_mean": 70.0, "score_sem": 0.25, "loss": -1.0, "extra": None},
    {"method": "c", "kind": "y", "seeds": 1, "score_mean": 60.0, "score_sem": 0.25, "loss": None, "extra": None},
]
SCORE, LOSS = Column("Θᴱ %", "score", "highest"), Column("loss", "loss", "lowest")


@pytest.mark.parametrize(
    ("column", "within", "best"),
    [
        # The first two are equal by what is shown, so that neither is better.
        (SCORE, "method", {2}),
        (SCORE, None, {0, 1}),
        (LOSS, "method", {1}),
        (LOSS, None, {2}),
        (Column("loss", "loss"), None, set()),
    ],
)
def test_the_best_cells_are_those_of_their_group_by_what_is_shown(column, within, best):
    assert best_rows(ROWS, column, within) == best


def test_all_files_have_the_same_rows(tmp_path):
    table = text_table(ROWS, {"method": "method", "kind": "kind"}, [SCORE, LOSS], within="method", caption="in %")
    publish(ROWS, [table], tmp_path / "table=0.5", "a title\nof two lines")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"table=0.5.{form}" for form in ("csv", "json", "tex")]
    assert json.loads((tmp_path / "table=0.5.json").read_text()) == ROWS
    with (tmp_path / "table=0.5.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["extra"] for row in rows] == ["", "1", "", ""]
    assert [float(row["score_mean"]) for row in rows] == [row["score_mean"] for row in ROWS]
    text = (tmp_path / "table=0.5.tex").read_text()
    assert text.startswith("% a title of two lines; needs \\usepackage{booktabs}\n")
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert lines == [
        r"method & kind & $\Theta^E$ \% & loss \\",
        r"a\_b & x & 90.00 $\pm$ 1.50 & 3.00 \\",
        r"a\_b & y & 90.00 & \textbf{2.00} \\",
        r"c & x & \textbf{70.00 $\pm$ 0.25} & $-$1.00 \\",
        r"c & y & 60.00 $\pm$ 0.25 &  \\",
    ]
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{llrr}", r"\caption{in \%}"):
        assert text.count(rule) == 1
    assert text.isascii()
    head, rule, first, *_ = table.markdown()
    assert (head, rule) == ("| method | kind | Θᴱ % | loss |", "|---|---|---:|---:|")
    assert first == "| a_b | x | 90.00 ± 1.50 | 3.00 |"


def summary(kind, accuracy, fitted):
    return {
        **{"method": "icarl", "exemplars": kind, "seed": 0, "average_accuracy": accuracy, "last_accuracy": accuracy},
        **{"average_accuracy_exemplar_model": fitted, "forgetting": 10.0},
    }


def test_a_comparison_has_columns_of_the_exemplar_model_only_where_it_differs(tmp_path):
    same = comparison([summary("random", 80.0, 80.0), summary("herding", 85.0, 85.001)])
    table, _ = results_tables(same)
    assert not any("Θᴱ" in heading for heading in table.headings)
    assert "Θᴱ, fitted to the exemplars alone, has the same accuracies" in table.caption
    other = comparison([summary("random", 80.0, 70.0), summary("herding", 85.0, 85.0)])
    table, forgetting = results_tables(other)
    assert not any("Θᴱ" in heading for heading in forgetting.headings)
    assert [heading for heading in table.headings if "Θᴱ" in heading] == ["average Θᴱ", "gain Θᴱ"]
    marked = np.array(table.cells)[np.array(table.best)]
    assert marked.tolist() == ["85.00", "85.00", "85.00"]
    write_comparison(other, tmp_path)
    text = (tmp_path / "comparison.tex").read_text()
    assert len(re.findall(r"\\begin\{tabular\}", text)) == 2
    assert r"icarl & herding & 1 & \textbf{85.00}" in text
    assert json.loads((tmp_path / "comparison.json").read_text()) == other
    assert (tmp_path / "comparison.csv").read_text().count("\n") == 3
