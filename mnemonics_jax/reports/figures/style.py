"""Common style of all figures: colours for colour-blind readers, markers, safe labels, tooltips, and the file."""

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

DPI = 150
WIDTH = 8.0
"""Width in inches. In a README's width, text is then about as large as the README's own."""

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""The colours of Okabe and Ito without the pale yellow, those of most contrast first."""
CLASSES = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#94a4a2"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
"""Petroff's ten colours (arXiv 2107.02270)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">")
"""A marker shape for each colour of `CLASSES`, so that classes differ in both."""
_KINDS: tuple[str | None, ...] = ("random", "herding", "mnemonics", None)
"""Exemplar kinds in the order in which they take their looks; others follow."""
_TOP = 10
_ROOM = 16
_MARGIN = 0.08
"""Inches around what is drawn."""


class Look(NamedTuple):
    """The colour, the marker and the width of a line."""

    colour: str
    marker: str
    width: float


class Drawing(Figure):
    """A Matplotlib figure that belongs to no window and no notebook, and the exact values behind its marks."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._cut: Bbox | None = None
        self.tooltips: dict[str, tuple[str, ...]] = {}

    def lay_out(self) -> Bbox:
        """Place all parts, unless that is done, and return the part of the figure that is not empty, in inches.

        The layout is the slow part of drawing, and Matplotlib would make it again, twice, for each file.
        """
        if self._cut is None:
            self.draw_without_rendering()
            self.set_layout_engine("none")
            self._cut = self.get_tightbbox().padded(_MARGIN)
        return self._cut

    def explain(self, artist: Artist, texts: Sequence[str]) -> None:
        """Give each mark of `artist` (a marker of a line, a cell of a mesh) a text to show under the pointer."""
        name = f"explained-{len(self.tooltips)}"
        artist.set_gid(name)
        # Above all others, where the pointer meets it first.
        artist.set_zorder(_TOP)
        self.tooltips[name] = tuple(texts)


def new_figure(width: float = WIDTH, height: float = 5.0, *, squares: bool = False) -> Drawing:
    """Return an empty figure of that many inches.

    `squares`: the axes have a fixed shape and move together to fill free space.
    """
    return Drawing(figsize=(width, height), layout="compressed" if squares else "constrained")


def save(figure: Drawing, path: Path) -> None:
    """Write the figure as PNG, SVG or PDF, as the suffix of `path` says. The same figure gives the same bytes."""
    write(figure, path, path.suffix.removeprefix("."))


def write(figure: Drawing, file: Path | BytesIO, form: str) -> None:
    """Write the figure in one of `FORMATS`. A character that the font lacks becomes a box, without a warning."""
    with _quiet(), mpl.rc_context({"svg.hashsalt": "mnemonics", "pdf.fonttype": 42}):
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        figure.savefig(file, format=form, dpi=DPI, bbox_inches=figure.lay_out(), metadata=undated)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def label(text: str, room: int = _ROOM) -> str:
    """Return text from elsewhere (names of classes and data sets) safe for Matplotlib, at most `room` characters long.

    Dollar signs do not start mathematics. A question mark replaces what cannot be encoded or printed.
    """
    shown = clean(text)
    shown = shown if len(shown) <= room else shown[: room - 1] + "…"
    return shown.replace("$", r"\$")


def clean(text: str) -> str:
    """Return the text with a question mark in place of each character that cannot be encoded or printed."""
    return "".join(c if c.isprintable() else "?" for c in text.encode("utf-8", "replace").decode())


def title(text: str, room: int = 24) -> str:
    """Return `label(text)` on at most two lines of `room` characters, because axes side by side are narrow."""
    lines = textwrap.wrap(label(text, 2 * room - 2), room)
    return "\n".join(lines[:2])


def kind_looks(kinds: Sequence[str | None]) -> dict[str | None, Look]:
    """Return the looks of exemplar kinds: colour and marker tell them apart, also in black and white.

    Known kinds look the same in every figure. Lines that are drawn later are thinner, so that a line that lies exactly
    on another does not hide it.
    """
    others = [kind for kind in dict.fromkeys(kinds) if kind not in _KINDS]
    looks = {}
    for place, kind in enumerate((*_KINDS, *others)):
        width = max(3.2 - 0.8 * place, 1.0)
        looks[kind] = Look(LINES[place % len(LINES)], MARKERS[place % len(MARKERS)], width)
    return {kind: looks[kind] for kind in dict.fromkeys(kinds)}
