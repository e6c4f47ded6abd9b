"""Common style of all figures: colours for colour-blind readers, markers, safe labels, and writing of the file."""

import textwrap
import warnings
from pathlib import Path

from matplotlib.figure import Figure

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
KIND_STYLES = {"mnemonics": "-", "herding": "--", "random": ":", None: "-."}
_OTHER_STYLES = ((0, (5, 1, 1, 1, 1, 1)), (0, (3, 3)), (0, (8, 2)), (0, (1, 3)))
_ROOM = 16


def new_figure(width: float = WIDTH, height: float = 5.0, *, squares: bool = False) -> Figure:
    """Return an empty figure of that many inches. It belongs to no window and no notebook.

    `squares`: the axes have a fixed shape and move together to fill free space.
    """
    return Figure(figsize=(width, height), layout="compressed" if squares else "constrained")


def save(figure: Figure, path: Path) -> None:
    """Write the figure. A character that the font lacks becomes a box, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, dpi=DPI, bbox_inches="tight", pad_inches=0.08)


def label(text: str, room: int = _ROOM) -> str:
    """Return text from elsewhere (names of classes and data sets) safe for Matplotlib, at most `room` characters long.

    Dollar signs do not start mathematics. A question mark replaces what cannot be encoded or printed.
    """
    clean = "".join(c if c.isprintable() else "?" for c in text.encode("utf-8", "replace").decode())
    clean = clean if len(clean) <= room else clean[: room - 1] + "…"
    return clean.replace("$", r"\$")


def title(text: str, room: int = 24) -> str:
    """Return `label(text)` on at most two lines of `room` characters, because axes side by side are narrow."""
    lines = textwrap.wrap(label(text, 2 * room - 2), room)
    return "\n".join(lines[:2])


def line_style(kind: str | None, kinds: list[str | None]) -> str | tuple:
    """Return the line style of an exemplar kind. Other kinds get the spare styles in the order of `kinds`."""
    if kind in KIND_STYLES:
        return KIND_STYLES[kind]
    others = [name for name in kinds if name not in KIND_STYLES]
    return _OTHER_STYLES[others.index(kind) % len(_OTHER_STYLES)]
