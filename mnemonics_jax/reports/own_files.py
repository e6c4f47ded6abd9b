"""Which files a command may write its results over: those that it has written, told by how they begin."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mnemonics_jax.reports.formats import FORMATS
from mnemonics_jax.runtime.errors import UserError

TITLE = "Class-incremental learning on"
"""How the title of report.html begins."""
BOOKTABS = "needs \\usepackage{booktabs}"
"""How the first line of every LaTeX file ends."""
SWEEP_ERRORS = "Mean ± standard error over class orders; gains are paired by class order, in points."
"""How the text of sweep.md begins, under its title."""
TABLE1_AVERAGES = "Average accuracy of A_0 .. A_N in percent;"
"""How the text of table1-DATASET.md begins, under its title."""
_BEGINNING = 4096
"""Bytes in which a sign is looked for."""


@dataclass(frozen=True)
class OwnFiles:
    """The files of results of a command, `writer`, in its folder.

    `signs` has what is near the beginning of each file of text, by name. `pictures` are names that say nothing about
    who wrote them: those beside one of the files of text are the command's.
    """

    writer: str
    signs: Mapping[str, str]
    pictures: tuple[str, ...] = ()

    def check(self, out: Path) -> None:
        """Check that nothing in the folder `out` would be lost when the command writes its results there.

        Raises:
            UserError: when there are files of their names that no such command has written.
        """
        texts = {name: _has(out / name, sign) for name, sign in self.signs.items() if (out / name).exists()}
        foreign = [name for name, own in texts.items() if not own]
        if not texts:
            foreign = [name for name in self.pictures if (out / name).exists()]
        if foreign:
            raise UserError(
                f"{out} has {', '.join(foreign)}, which no {self.writer} has written: move them away, or choose "
                "another --out"
            )


def table_signs(stem: str, *keys: str) -> dict[str, str]:
    """Return the signs of STEM.csv and .json with rows whose first keys are `keys`, and of STEM.tex."""
    csv, json = ",".join((*keys, "")), f'[\n  {{\n    "{keys[0]}": '
    return {f"{stem}.csv": csv, f"{stem}.json": json, f"{stem}.tex": BOOKTABS}


REPORT = OwnFiles(
    "report",
    {"report.html": f"<title>{TITLE} ", **table_signs("comparison", "method")},
    (*(f"accuracy.{form}" for form in FORMATS), "figures"),
)
"""Results of reports and comparisons."""
SWEEP = OwnFiles(
    "sweep",
    {"sweep.json": '{\n  "sweep": ', "sweep.csv": ",seeds,", "sweep.md": SWEEP_ERRORS, "sweep.tex": BOOKTABS},
    ("sweep.png",),
)
"""Results of a sweep."""


def table1_files(stem: str) -> OwnFiles:
    """Return the files of the paper's table, whose names begin with `stem`."""
    return OwnFiles("table", {f"{stem}.md": TABLE1_AVERAGES, **table_signs(stem, "dataset", "phases")})


def _has(path: Path, sign: str) -> bool:
    # Reading a pipe would wait for ever.
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return sign.encode() in file.read(_BEGINNING)
    except OSError:
        return False
