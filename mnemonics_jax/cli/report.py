"""`mnemonics report`: finished runs side by side."""

import argparse
from pathlib import Path

from mnemonics_jax.reports.formats import FORMATS
from mnemonics_jax.reports.own_files import REPORT
from mnemonics_jax.reports.summary_files import summary_files
from mnemonics_jax.runtime.errors import UserError


def main(words: list[str]) -> int:
    """Write what `words` ask for, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="mnemonics report",
        description="Compares finished runs from their files alone: comparison.csv, .tex and .json, accuracy.png, "
        "figures/ and report.html, a self-contained page.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run or of a comparison")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: RUN)")
    parser.add_argument("--no-tsne", action="store_true", help="leave out t-SNE of features, most of the time")
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, default=["png"], help="formats of the figures' files (default: png)"
    )
    asked = parser.parse_args(words)
    if asked.out is None and len(asked.runs) > 1:
        raise UserError(f"{len(asked.runs)} folders: give the folder of their report with --out")
    # Looks for the runs before `_report` imports what reads and draws them, which takes seconds.
    summary_files(asked.runs)
    out = asked.out or asked.runs[0]
    REPORT.check(out)
    formats = tuple(dict.fromkeys(asked.format))
    return _report(asked.runs, out, formats, tsne=not asked.no_tsne)


def _report(folders: list[Path], out: Path, formats: tuple[str, ...], *, tsne: bool) -> int:
    from mnemonics_jax.reports.finished_runs import find_finished_runs
    from mnemonics_jax.reports.page import PageConfig, write_page
    from mnemonics_jax.reports.tables import comparison_tables, run_table
    from mnemonics_jax.runtime.compile_cache import use_persistent_cache
    from mnemonics_jax.runtime.files import cannot_write
    from mnemonics_jax.runtime.progress import Display, stdout

    runs = find_finished_runs(folders)
    use_persistent_cache()
    with cannot_write(out):
        out.mkdir(parents=True, exist_ok=True)
        with Display() as display:
            rows = write_page(runs, out, display, PageConfig(tsne=tsne, formats=formats))
    stdout().print(run_table(runs[0].summary) if len(runs) == 1 else comparison_tables(rows))
    figure = out / f"accuracy.{formats[0]}"
    print(f"plot: {figure}\ntables: {out / 'comparison.csv'} (.tex, .json)\nreport: {out / 'report.html'}")
    return 0
