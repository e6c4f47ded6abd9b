"""config.json read back into a `Config`, every name and type checked."""

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mnemonics_jax.config import Config
from mnemonics_jax.errors import UserError, unknown_name
from mnemonics_jax.exemplars import exemplar_class
from mnemonics_jax.journal import read_json
from mnemonics_jax.methods import method_class


def read_config(path: Path) -> Config:
    """The configuration in the file `path`, as `Config.to_dict` gives it; fields it lacks have their defaults.

    Raises `UserError` naming the file and the field for what is unknown, missing, of a wrong type or out of range.
    """
    plain = read_json(path)
    try:
        config = _value(Config, plain, "")
        config.validate()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return config


def _value(kind: Any, plain: Any, name: str) -> Any:
    """`plain` as a value of the type `kind`; `name` is the dotted name of the field."""
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, plain, name)
    if isinstance(kind, types.UnionType) or get_origin(kind) is typing.Union:
        if any(_fits(option, plain) for option in get_args(kind)):
            return plain
    elif get_origin(kind) is tuple and isinstance(plain, list):
        return tuple(_value(get_args(kind)[0], item, f"{name}[{i}]") for i, item in enumerate(plain))
    elif _fits(kind, plain):
        return plain
    wanted = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    raise UserError(f"{name} is {plain!r}; it has to be {wanted}")


def _fits(kind: Any, plain: Any) -> bool:
    if get_origin(kind) is Literal:
        return plain in get_args(kind)
    if kind in (int, float):
        # JSON has one kind of number, Python's has NaN and infinity as well, and counts True among the integers.
        return isinstance(plain, int | kind) and not isinstance(plain, bool) and math.isfinite(plain)
    return isinstance(kind, type) and get_origin(kind) is None and isinstance(plain, kind)


def _dataclass(kind: Any, plain: Any, name: str) -> Any:
    if not isinstance(plain, dict):
        raise UserError(f"{name} is {plain!r}; it has to be an object with the fields of {kind.__name__}")
    fields = dict(plain)
    if name in ("method", "exemplars"):
        kind = {"method": method_class, "exemplars": exemplar_class}[name](str(fields.pop("name", "")))
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    prefix = f"{name}." if name else ""
    for field in fields:
        if field not in known:
            raise unknown_name("setting", prefix + field, [prefix + other for other in known])
    for field in known.values():
        if field.name not in fields and field.default is dataclasses.MISSING:
            raise UserError(f"{prefix}{field.name} is missing")
    return kind(**{field: _value(hints[field], value, prefix + field) for field, value in fields.items()})
