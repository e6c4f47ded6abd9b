"""What the commands share: the words that decide which settings exist, and help that wraps."""

import argparse
import dataclasses
import re
import shlex
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import tyro

from mnemonics_jax.config.config import Config
from mnemonics_jax.config.presets import PRESETS, preset_lines, recipe_lines
from mnemonics_jax.config.settings_file import SettingsFile, read_settings_file
from mnemonics_jax.exemplars import EXEMPLARS
from mnemonics_jax.methods import METHODS
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.settings import field_kinds

T = TypeVar("T")


@dataclass(frozen=True)
class Start:
    """What the settings of a command start from: a preset and a recipe, and a file of settings.

    `methods` and `kinds` are None where neither the words nor the file name any. `words` are the other words, which
    tyro parses.
    """

    preset: str
    methods: list[str] | None
    kinds: list[str] | None
    recipe: str
    file: SettingsFile
    words: list[str]


def start(command: str, words: list[str], method: str = "method", *, several: bool = False) -> Start:
    """Read the preset and the flags that decide which settings exist: --METHOD, --exemplars, --recipe, --config.

    A flag counts for more than the file of --config. Without a preset, print help and exit.

    Args:
        command: name of the command, for messages.
        words: the words after it.
        method: name of the flag that chooses methods.
        several: whether that flag and --exemplars take several names.

    Raises:
        UserError: when the preset is not the first word; when the file of --config cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog=f"mnemonics {command}", usage="%(prog)s PRESET [settings]", add_help=False, allow_abbrev=False
    )
    parser.add_argument(f"--{method}", dest="methods", nargs="+" if several else 1)
    parser.add_argument("--exemplars", nargs="+" if several else 1)
    parser.add_argument("--recipe")
    parser.add_argument("--config", type=Path)
    named = bool(words) and not words[0].startswith("-")
    chosen, rest = parser.parse_known_args(words[1:] if named else words)
    file = read_settings_file(chosen.config) if chosen.config else SettingsFile()
    preset = words[0] if named else file.preset
    if preset is None:
        if words and words[0] not in ("-h", "--help"):
            raise UserError(_without_preset(command, words))
        print(f"usage: mnemonics {command} PRESET [settings]\n\npresets:\n{preset_lines()}\n")
        print(f"`mnemonics {command} PRESET --help` explains every setting.")
        sys.exit(0 if words else 2)
    file = file.with_names(chosen.methods, chosen.exemplars)
    return Start(preset, file.methods, file.kinds, chosen.recipe or file.recipe or "default", file, rest)


def _without_preset(command: str, words: list[str]) -> str:
    """Return the message for `words` that do not begin with a preset; it suggests the command that was meant."""
    named = next((word.split("=")[-1] for word in words if word.split("=")[-1] in PRESETS), "digits")
    return (
        f"the preset comes right after the command: `mnemonics {command} {named} ...`; `mnemonics {command} --help` "
        "lists the presets"
    )


def choices(methods: str, kinds: str) -> str:
    """Return the part of a command's help about methods, exemplar kinds and recipes; arguments are their flags."""
    return (
        f"{methods}\n"
        f"    choose from {', '.join(METHODS)}\n"
        f"{kinds}\n"
        f"    choose from {', '.join(EXEMPLARS)}; method and kind decide which settings follow\n"
        "--config FILE\n"
        "    take settings from a YAML or JSON file, such as the config.json of a run; flags count for more\n"
        "--recipe NAME\n"
        f"    what the settings start from:\n{textwrap.indent(recipe_lines(), '    ')}"
    )


def parse(settings: T, words: list[str], *, command: str, description: str) -> T:
    """Return the dataclass `settings` with the changes that `words` ask for; print help or a mistake and exit."""
    if {"-h", "--help"} & {*words}:
        _wrap_help(type(settings), settings)
    return tyro.cli(
        type(settings), prog=f"mnemonics {command}", description=wrapped(description), default=settings, args=words
    )


def parse_new(cls: type[T], words: list[str], *, command: str, description: str) -> T:
    """Return a `cls` made of `words`; print help or a mistake and exit."""
    if {"-h", "--help"} & {*words}:
        _wrap_help(cls)
    return tyro.cli(cls, prog=f"mnemonics {command}", description=wrapped(description), args=words)


def parse_known(settings: T, words: list[str]) -> T:
    """Return the dataclass `settings` with those changes of `words` that it has a field for."""
    return tyro.cli(type(settings), default=settings, args=words, return_unknown_args=True)[0]


def wrapped(text: str) -> str:
    """Return a command's description, wrapped to the terminal.

    Paragraphs are filled; of those with an indented line each line stays one, with its later parts below its words.
    """
    width = min(shutil.get_terminal_size().columns, 100)
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        parts = paragraph.split("\n")
        if not any(part.startswith(" ") for part in parts):
            parts = [" ".join(parts)]
        for part in parts:
            # tyro joins lines that begin with a letter, so each begins with a space.
            begin = re.match(r" *(\S+  +)?", part)[0]
            lines += textwrap.wrap(part, width, initial_indent="  ", subsequent_indent=" " * (len(begin) + 2))
        lines.append("")
    return "\n".join(lines)


def where_results_lie(out: Path) -> str:
    """Return the last lines of a command whose results are in `out`: what lies there, and the next command."""
    return f"results: {out}\nnext:    mnemonics report {shlex.quote(str(out))}    (figures, tables, report.html)"


def _wrap_help(cls: type, settings: Any = None) -> None:
    """Give tyro the help of each field in one line.

    tyro reads the docstrings of fields, but keeps the line breaks of their indented lines. `settings` is an instance,
    for the classes of the dataclasses in it.
    """
    import docstring_parser

    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        found = docstring_parser.parse_from_object(base).params if dataclasses.is_dataclass(base) else []
        texts |= {doc.arg_name: " ".join(doc.description.split()) for doc in found if doc.description}
    for field in dataclasses.fields(cls):
        if field.name in texts:
            field.metadata = MappingProxyType({**field.metadata, "help": texts[field.name]})
        part = getattr(settings, field.name, None)
        if dataclasses.is_dataclass(part):
            _wrap_help(type(part), part)


def with_all_settings(configs: list[Config]) -> Config:
    """Return a configuration with the settings of all methods and kinds, only for flags and their help."""
    return dataclasses.replace(
        configs[0],
        method=_merged(
            [config.method for config in configs], "Settings of the methods; each method takes those it has."
        ),
        exemplars=_merged(
            [config.exemplars for config in configs], "Settings of the exemplar kinds; each kind takes those it has."
        ),
    )


def _merged(parts: list[T], doc: str) -> T:
    """Return one dataclass with the fields of all `parts`; where several have a field, the first one's value counts."""
    fields: dict[str, tuple[str, Any, Any]] = {}
    for part in parts:
        for name, kind in field_kinds(type(part)).items():
            fields.setdefault(name, (name, kind, dataclasses.field(default=getattr(part, name))))
    # tyro looks up the help of a field in the class that declares it, so the bases are these classes.
    classes = {type(part): None for part in parts}
    bases = tuple(cls for cls in classes if not any(issubclass(other, cls) for other in classes if other is not cls))
    merged = dataclasses.make_dataclass("All", fields.values(), bases=bases, frozen=True, namespace={"__doc__": doc})
    return merged()
