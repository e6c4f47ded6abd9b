"""What a page consists of: sections of paragraphs, tables, figures and parts that are folded away."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mnemonics_jax.reports.figures import Drawing
from mnemonics_jax.reports.publish import TextTable


@dataclass(frozen=True)
class Paragraph:
    """Plain text; `note` highlights what is missing, and why."""

    text: str
    note: bool = False
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Table:
    """A table in a box that scrolls."""

    content: TextTable
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Folded:
    """A table folded away behind a line of text."""

    summary: str
    table: Table
    kind: ClassVar[str] = "folded"


@dataclass(frozen=True)
class Plot:
    """A figure that is still to be drawn."""

    name: str
    """Names the files of the figure, without their suffix and without spaces."""
    alt: str
    caption: str
    draw: Callable[[], Drawing]
    """Draws the figure, in a process of its own: it has to be picklable, with all data that it needs."""
    vector: bool = True
    """Whether the page shows it as SVG, with tooltips; figures of many points or pixels are smaller as PNG."""
    kind: ClassVar[str] = "plot"


Part = Paragraph | Table | Folded | Plot


class Section(NamedTuple):
    """A part of the page with a heading; one without parts is not shown."""

    title: str
    parts: Sequence[Part]


def note(text: str) -> Paragraph:
    """Return a highlighted paragraph that says what is missing, and why."""
    return Paragraph(text, note=True)


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str, words: int = 1) -> Table:
    """Return a table in which no cell is marked. Its first `words` columns hold text, the others numbers."""
    best = tuple((False,) * len(row) for row in rows)
    return Table(TextTable(tuple(headings), tuple(map(tuple, rows)), best, words, caption))
