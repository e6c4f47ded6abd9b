"""Reads settings from config.json and from texts FIELD=VALUE; checks every name, type and range."""

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from mnemonics_jax.config.config import Config
from mnemonics_jax.exemplars import exemplar_class
from mnemonics_jax.methods import method_class
from mnemonics_jax.runtime.errors import UserError, unknown_name
from mnemonics_jax.runtime.files import read_json
from mnemonics_jax.runtime.settings import coerce, field_kinds, options

T = TypeVar("T")

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read_config(path: Path) -> Config:
    """Read the configuration in the file `path`, written by `Config.to_dict`. Missing fields get their defaults.

    Raises:
        UserError: names the file and the field if a setting is unknown, has the wrong type, is out of range, or is
            missing and has no default.
    """
    plain = read_json(path)
    # What a run notes beside its configuration, see `runs.record`.
    plain.pop("record", None)
    try:
        config = _dataclass(Config, plain, "")
        config.validate()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return config


def _dataclass(kind: Any, plain: Any, name: str) -> Any:
    """Return a `kind` made of the plain values `plain`. `name` is the dotted name of its field."""
    if not isinstance(plain, dict):
        raise UserError(f"{name} {plain!r}: has to be an object with the fields of {kind.__name__}")
    fields = dict(plain)
    if name in ("method", "exemplars"):
        kind = {"method": method_class, "exemplars": exemplar_class}[name](str(fields.pop("name", "")))
    kinds, prefix = field_kinds(kind), f"{name}." if name else ""
    for field in fields:
        if field not in kinds:
            raise unknown_name("setting", prefix + field, [prefix + other for other in kinds])
    for field in dataclasses.fields(kind):
        if field.name not in fields and field.default is dataclasses.MISSING:
            raise UserError(f"{prefix}{field.name} is missing")
    return kind(**{field: _value(kinds[field], value, prefix + field) for field, value in fields.items()})


def _value(kind: Any, plain: Any, name: str) -> Any:
    return _dataclass(kind, plain, name) if dataclasses.is_dataclass(kind) else coerce(kind, plain, name)


def override(config: Config, settings: Mapping[str, str]) -> Config:
    """Return `config` with the `settings` changed.

    Args:
        config: a configuration.
        settings: texts by setting name; hyphens may replace underscores in names. The texts are those of the command
            line: numbers, names, `true` or `false`, `none` for a setting that may be unset, `8,16` or `8:16` for
            several values.

    Raises:
        UserError: if `config` has no such setting (the message names similar ones), or if the setting does not accept
            the text. Only `Config.validate` finds settings that contradict each other.
    """
    for name, text in settings.items():
        config = with_value(config, name, text)
    return config


def with_value(config: Config, name: str, value: Any) -> Config:
    """Return `config` with one setting changed to `value`: a text as in `override`, or a plain JSON value.

    Raises:
        UserError: as `override` does.
    """
    kinds, path = settable(config), name.replace("-", "_")
    if path not in kinds:
        raise unknown_name("setting", name, kinds)
    plain = _plain(kinds[path], value) if isinstance(value, str) else value
    return _replaced(config, path.split("."), coerce(kinds[path], plain, path))


def pairs(words: Iterable[str], flag: str) -> dict[str, str]:
    """Read words FIELD=VALUE as a dictionary.

    Raises:
        UserError: names the `flag` if a word has no = sign.
    """
    found = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign:
            raise UserError(f"{flag} {word}: give FIELD=VALUE, for example exemplars.unroll_length=5")
        found[name] = text
    return found


def has(config: Config, name: str) -> bool:
    """Return whether `config` has a setting of that name."""
    return name.replace("-", "_") in settable(config)


def settable(config: Config) -> dict[str, Any]:
    """Return the declared type of each setting of `config`, by dotted name."""
    kinds: dict[str, Any] = {}
    for name, kind in field_kinds(type(config)).items():
        part = getattr(config, name)
        if dataclasses.is_dataclass(part):
            kinds |= {f"{name}.{inner}": inner_kind for inner, inner_kind in field_kinds(type(part)).items()}
        elif name not in ("preset", "recipe"):
            kinds[name] = kind
    return kinds


def _plain(kind: Any, text: str) -> Any:
    """Return `text` as the plain JSON value that `kind` expects, or unchanged if it is none."""
    text = text.strip()
    if type(None) in options(kind) and text.lower() == "none":
        return None
    for option in options(kind):
        if get_origin(option) is tuple:
            words = text.strip("()[]").replace(":", ",").replace(",", " ").split()
            return [_plain(get_args(option)[0], word) for word in words]
        if get_origin(option) is Literal:
            return {str(choice): choice for choice in get_args(option)}.get(text, text)
        if option is bool and text.lower() in _WORDS:
            return _WORDS[text.lower()]
        if option in (int, float):
            with suppress(ValueError):
                return option(text)
    return text


def _replaced(whole: T, path: list[str], value: Any) -> T:
    inner = value if len(path) == 1 else _replaced(getattr(whole, path[0]), path[1:], value)
    return dataclasses.replace(whole, **{path[0]: inner})
