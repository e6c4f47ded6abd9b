"""Which files a report may write over: those that a report has written, told by how they begin."""

from pathlib import Path

from mnemonics_jax.reports.formats import FORMATS
from mnemonics_jax.runtime.errors import UserError

TITLE = "Class-incremental learning on"
"""How the title of report.html begins."""
TABLES_TITLE = "Comparison of class-incremental learning runs"
"""The title of the tables, with which comparison.tex begins."""

_SIGNS = {
    "report.html": f"<title>{TITLE} ",
    "comparison.csv": "method,",
    "comparison.json": '[\n  {\n    "method": ',
    "comparison.tex": f"% {TABLES_TITLE};",
}
"""What is near the beginning of a report's file of text."""
_PICTURES = (*(f"accuracy.{form}" for form in FORMATS), "figures")
"""Names that say nothing about who wrote them: those beside a report's files of text are a report's."""
_BEGINNING = 4096
"""Bytes in which a sign is looked for."""


def check_own_files(out: Path) -> None:
    """Check that nothing in the folder `out` would be lost when a comparison or a report is written there.

    Raises:
        UserError: when there are files of a report's names that no report has written.
    """
    texts = {name: _has(out / name, sign) for name, sign in _SIGNS.items() if (out / name).exists()}
    foreign = [name for name, own in texts.items() if not own]
    if not texts:
        foreign = [name for name in _PICTURES if (out / name).exists()]
    if foreign:
        raise UserError(
            f"{out} has {', '.join(foreign)}, which no report has written: move them away, or choose another --out"
        )


def _has(path: Path, sign: str) -> bool:
    # Reading a pipe would wait for ever.
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return sign.encode() in file.read(_BEGINNING)
    except OSError:
        return False
