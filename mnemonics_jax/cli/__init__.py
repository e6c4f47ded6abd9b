"""The command line: `mnemonics COMMAND ...`, one module for each command.

Each command reads its words before it imports anything that takes long: help and mistakes are there at once.
"""

import importlib
import sys
from collections.abc import Sequence
from itertools import pairwise

from mnemonics_jax.runtime.errors import UserError, exit_status, unknown_name

COMMANDS = {
    "run": ("run PRESET", "one run; the same command goes on where it stopped"),
    "compare": ("compare PRESET", "methods × exemplar kinds × class orders, as tables and plots"),
    "sweep": ("sweep PRESET", "every combination of values of some settings"),
    "table": ("table", "the cells of the paper's table, beside its figures"),
    "report": ("report RUN...", "tables, figures and a page of finished runs, from their files alone"),
    "export": ("export RUN", "a run's exemplars as images and .npz, and its model, for other programs"),
}

_FOLDERS = ("--out", "--to")


def main(args: Sequence[str] | None = None) -> None:
    """Run the `mnemonics` command with the words `args`, by default those of the command line.

    The exit status is 0 for success, 2 for a mistake by the user, 3 for numbers that are not finite or failed runs, 75
    for a run that was saved and ended on SIGTERM, and 130 for Ctrl-C.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        from mnemonics_jax import __version__

        print(f"mnemonics_jax {__version__}")
        return
    with exit_status("mnemonics"):
        if words[0] not in COMMANDS:
            raise unknown_name("command", words[0], COMMANDS)
        for flag, value in pairwise([*words, "-"]):
            # A path of no letters would be the current directory.
            if flag in (f"{name}=" for name in _FOLDERS) or (flag in _FOLDERS and not value.strip()):
                raise UserError(f"{flag.rstrip('=')} is empty: give the name of a folder")
        status = importlib.import_module(f"mnemonics_jax.cli.{words[0]}").main(words[1:])
    if status:
        sys.exit(status)


def _usage() -> str:
    from mnemonics_jax.config.presets import preset_lines
    from mnemonics_jax.exemplars import EXEMPLARS
    from mnemonics_jax.methods import METHODS

    commands = "\n".join(f"  {usage:16} {what}" for usage, what in COMMANDS.values())
    return f"""usage: mnemonics COMMAND ...

Class-incremental learning with learned exemplars.

commands:
{commands}

presets:
{preset_lines()}

methods:        {", ".join(METHODS)}
exemplar kinds: {", ".join(EXEMPLARS)}

`mnemonics COMMAND --help` explains a command, `mnemonics run PRESET --help` every setting, and
`mnemonics --version` tells the version."""
