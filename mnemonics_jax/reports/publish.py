"""Tables of results for papers and programs: CSV, JSON, LaTeX (booktabs) and Markdown, from the same rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnemonics_jax.reports.own_files import BOOKTABS
from mnemonics_jax.reports.statistics import FORGETTING
from mnemonics_jax.runtime.files import write_atomically, write_json

Row = Mapping[str, Any]
"""A row of results by key: NAME_mean and NAME_sem, or NAME and perhaps NAME_sem. None where there is no value."""

_LATEX = {"Θᴱ": r"$\Theta^E$", "Θ": r"$\Theta$", "±": r"$\pm$", "−": "$-$", "–": "--", "×": r"$\times$", "ᴱ": "$^E$"}
"""What LaTeX's usual fonts lack, and how to write it."""


@dataclass(frozen=True)
class Column:
    """A column of numbers: its heading, the key of its values in a row, and which value of it is the best."""

    heading: str
    key: str
    best: Literal["highest", "lowest"] | None = None
    sign: str = ""
    """"+" to show the sign of positive numbers too."""
    form: str = ".2f"
    """The format of a value, without its sign."""
    counts: str = ""
    """The key of the number of class orders, to be shown behind the value."""


FORGETTING_COLUMNS = tuple(
    Column(heading, key, "highest" if key == "backward_transfer" else "lowest") for heading, key in FORGETTING.items()
)


@dataclass(frozen=True)
class TextTable:
    """A table as text: the first `words` columns hold words, the others numbers. `best` marks cells, by row."""

    headings: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    best: tuple[tuple[bool, ...], ...]
    words: int
    caption: str = ""

    def markdown(self) -> list[str]:
        """Return the lines of the table in Markdown."""
        rule = "|" + "---|" * self.words + "---:|" * (len(self.headings) - self.words)
        return [_line(self.headings), rule, *map(_line, self.cells)]

    def latex(self) -> str:
        """Return a LaTeX table with rules of booktabs and the best cells bold."""
        import numpy as np
        import pandas as pd

        # pandas needs different headings; LaTeX ignores spaces at the end of one.
        names = [heading + " " * self.headings[:i].count(heading) for i, heading in enumerate(self.headings)]
        frame = pd.DataFrame([list(row) for row in self.cells], columns=names, dtype=object)
        bold = np.where(np.asarray(self.best, bool).reshape(frame.shape), "textbf:--rwrap;", "")
        styler = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
        styler = styler.apply(lambda _: bold, axis=None)
        text = styler.to_latex(
            hrules=True,
            column_format="l" * self.words + "r" * (len(self.headings) - self.words),
            position="htbp",
            position_float="centering",
            caption=_escaped(self.caption) or None,
        )
        for plain, written in _LATEX.items():
            text = text.replace(plain, written)
        return text


def text_table(
    rows: Sequence[Row],
    words: Mapping[str, str],
    columns: Sequence[Column],
    *,
    within: str | None = None,
    unranked: Collection[int] = (),
    caption: str = "",
    empty: str = "",
) -> TextTable:
    """Return rows of results as text.

    Args:
        rows: the rows.
        words: heading and key of the columns of words.
        columns: the columns of numbers.
        within: the key of the words within which the best values are looked for; None for the whole column.
        unranked: numbers of rows that are never the best, such as bounds that no row competes with.
        caption: a sentence about the table.
        empty: the text of a missing value.
    """
    marks = [best_rows(rows, column, within, unranked) for column in columns]
    cells = tuple(
        (*(str(row[key]) for key in words.values()), *(cell_text(row, column, empty) for column in columns))
        for row in rows
    )
    best = tuple((*[False] * len(words), *(i in marked for marked in marks)) for i in range(len(rows)))
    return TextTable((*words, *(column.heading for column in columns)), cells, best, len(words), caption)


def value_and_error(row: Row, key: str) -> tuple[int | float | None, float | None]:
    """Return a value of a row and its standard error, None where there is none."""
    return row.get(f"{key}_mean", row.get(key)), row.get(f"{key}_sem")


def cell_text(row: Row, column: Column, empty: str = "") -> str:
    """Return the value of a row in a column as text, with its standard error; `empty` if it has none."""
    value, error = value_and_error(row, column.key)
    if value is None:
        return empty
    text = f"{value:{column.sign}{column.form}}" + (f" ± {error:{column.form}}" if error is not None else "")
    return text.replace("-", "−") + (f" (n={row[column.counts]})" if column.counts else "")


def best_rows(
    rows: Sequence[Row], column: Column, within: str | None = None, unranked: Collection[int] = ()
) -> set[int]:
    """Return the numbers of the rows with the best value, by two decimals; of each group of rows with equal `within`.

    A group with fewer than two values, or with equal values alone, has no best one. Rows in `unranked` do not count.
    """
    if column.best is None:
        return set()
    groups: dict[Any, dict[int, float]] = {}
    for number, row in enumerate(rows):
        value, _ = value_and_error(row, column.key)
        if value is not None and number not in unranked:
            groups.setdefault(row[within] if within else None, {})[number] = round(value, 2)
    pick = max if column.best == "highest" else min
    return {
        number
        for values in groups.values()
        if len(set(values.values())) > 1
        for number, value in values.items()
        if value == pick(values.values())
    }


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as CSV, a column for each key; an empty field where there is no value."""
    import pandas as pd

    # Of objects, so that whole numbers beside missing ones stay whole.
    write_atomically(path, pd.DataFrame([dict(row) for row in rows], dtype=object).to_csv(index=False))


def publish(rows: Sequence[Row], tables: Sequence[TextTable], stem: Path, title: str) -> None:
    """Write STEM.csv and STEM.json with all values of the rows, and STEM.tex with the tables.

    Args:
        rows: the rows, with the same keys.
        tables: the tables as text.
        stem: path of the files without their suffix.
        title: says what the tables are of, in the first line of the LaTeX file, which is a comment.
    """
    write_csv(rows, _with(stem, "csv"))
    write_json(_with(stem, "json"), [dict(row) for row in rows])
    write_latex(tables, _with(stem, "tex"), title)


def write_latex(tables: Sequence[TextTable], path: Path, title: str) -> None:
    """Write the tables into one file for `\\input`. Its first line, a comment, is `title` and the package needed."""
    comment = " ".join(title.split())
    parts = [f"% {comment}; {BOOKTABS}\n", *(table.latex() for table in tables)]
    write_atomically(path, "\n".join(parts))


def _escaped(text: str) -> str:
    """Return a sentence with the characters that LaTeX reads as commands escaped, as pandas does it in cells."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def _with(stem: Path, suffix: str) -> Path:
    # Not `with_suffix`, which takes what follows a dot in the name for a suffix.
    return stem.with_name(f"{stem.name}.{suffix}")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
