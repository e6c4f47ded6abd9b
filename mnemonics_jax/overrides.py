"""Settings by dotted name, as `exemplars.unroll_length` = "5": text parsed by each field's declared type."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from mnemonics_jax.config import Config
from mnemonics_jax.errors import UserError, unknown_name

T = TypeVar("T")

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def override(config: Config, settings: Mapping[str, str]) -> Config:
    """`config` with the `settings` changed. Names may be written with hyphens, as the command line's flags are.

    Texts are what the flags take: numbers, names, `true` or `false`, `none` where a setting may be left out, and for
    several values in one `8,16` or `8:16`. Raises `UserError` for a name that `config` lacks, with the near matches,
    and for a text that its setting does not take, with what it takes. The result is not validated.
    """
    kinds = settable(config)
    for name, text in settings.items():
        path = name.replace("-", "_")
        if path not in kinds:
            raise unknown_name("setting", name, kinds)
        config = _replaced(config, path.split("."), parse(path, kinds[path], text))
    return config


def pairs(words: Iterable[str], flag: str) -> dict[str, str]:
    """Words FIELD=VALUE as a dictionary. Raises `UserError`, which names the `flag`, for a word without an = sign."""
    found = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign:
            raise UserError(f"{flag} {word}: give FIELD=VALUE, as exemplars.unroll_length=5")
        found[name] = text
    return found


def has(config: Config, name: str) -> bool:
    """Whether `config` has a setting of that name."""
    return name.replace("-", "_") in settable(config)


def settable(config: Config) -> dict[str, Any]:
    """The declared type of each setting of `config`, by dotted name."""
    kinds: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        if dataclasses.is_dataclass(part):
            hints = typing.get_type_hints(type(part))
            kinds |= {f"{field.name}.{inner.name}": hints[inner.name] for inner in dataclasses.fields(part)}
        elif field.name != "preset":
            kinds[field.name] = field.type
    return kinds


def parse(name: str, kind: Any, text: str) -> Any:
    """The value of the type `kind` that `text` stands for. Raises `UserError` that names the setting otherwise."""
    try:
        return _parse(kind, text.strip())
    except ValueError as error:
        raise UserError(f"{name} is {text!r}; it has to be {_accepts(kind)}") from error


def _parse(kind: Any, text: str) -> Any:
    """Raises `ValueError` for a text that stands for nothing of that type."""
    if get_origin(kind) is Literal:
        return {str(option): option for option in get_args(kind)}[text] if text in map(str, get_args(kind)) else _no()
    if isinstance(kind, types.UnionType) or get_origin(kind) is typing.Union:
        if type(None) in get_args(kind) and text.lower() == "none":
            return None
        for option in get_args(kind):
            if option is not type(None):
                try:
                    return _parse(option, text)
                except ValueError:
                    continue
        return _no()
    if get_origin(kind) is tuple:
        words = text.strip("()[]").replace(":", ",").replace(",", " ").split()
        return tuple(_parse(get_args(kind)[0], word) for word in words)
    if kind is bool:
        return _WORDS[text.lower()] if text.lower() in _WORDS else _no()
    value = kind(text)
    return value if kind is not float or math.isfinite(value) else _no()


def _no() -> Any:
    raise ValueError


def _accepts(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if isinstance(kind, types.UnionType) or get_origin(kind) is typing.Union:
        return " or ".join("none" if option is type(None) else _accepts(option) for option in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list such as 8,16 each of which is {_accepts(get_args(kind)[0])}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[kind]


def _replaced(whole: T, path: list[str], value: Any) -> T:
    inner = value if len(path) == 1 else _replaced(getattr(whole, path[0]), path[1:], value)
    return dataclasses.replace(whole, **{path[0]: inner})
