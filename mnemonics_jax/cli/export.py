"""`mnemonics export`: a run's exemplars and model for other programs."""

import argparse
from pathlib import Path

from mnemonics_jax.runtime.errors import UserError


def main(words: list[str]) -> int:
    """Write what `words` ask for, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="mnemonics export",
        description="Writes the exemplars and the model of RUN after its last finished phase: images/ (a data set for "
        "--data.source folder), exemplars.npz (a data set for --data.source npz) and model/.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--to", type=Path, help="new folder to write; it must not exist (default: RUN/export)")
    asked = parser.parse_args(words)
    if not (asked.run / "config.json").is_file():
        found = "does not exist" if not asked.run.exists() else "is not the folder of a run: it has no config.json"
        raise UserError(f"{asked.run} {found}; give the folder that `mnemonics run` wrote, its --out")
    return _export(asked.run, asked.to or asked.run / "export")


def _export(run: Path, to: Path) -> int:
    from mnemonics_jax.runs.export import export
    from mnemonics_jax.runtime.progress import Display

    with Display() as display:
        export(run, to, display.warn)
    print(f"written: {', '.join(str(path) for path in sorted(to.iterdir()))}")
    return 0
