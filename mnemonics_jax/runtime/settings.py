"""Types and ranges of settings, checked in the same way for flags, files and Python values.

A range is part of a field's type: `epochs: Annotated[int, Gt(0)]`, `total: Annotated[int, Ge(1)] | None`.
"""

import dataclasses
import json
import reprlib
import types
import typing
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import annotated_types as at

from mnemonics_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

_BOUNDS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
_OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "too_short"}
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "none"}
_INTEGER_BITS = 63


class _Repr(reprlib.Repr):
    """The representation of a value of any size and depth in one line."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100

    def repr_int(self, x: int, level: int) -> str:
        """Return the digits of `x`, or its size: Python refuses to write integers of thousands of digits."""
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"(an integer of {x.bit_length()} bits)"


_shown = _Repr()


@cache
def field_kinds(settings: type) -> dict[str, Any]:
    """Return the declared type of each field of a settings dataclass, with its range."""
    hints = typing.get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings)}


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Check every field of a settings dataclass, and of the dataclasses in it, against its type and range.

    Floats always have to be finite. `prefix` comes before the names of flags, as in `--train.epochs`.

    Raises:
        UserError: for the first value that does not fit, with its flag, the value and what is accepted.
    """
    for name, kind in field_kinds(type(settings)).items():
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{prefix}{name}.")
        else:
            _checked(
                kind, value, _flag(prefix + name, kind), lambda adapter, value=value: adapter.validate_python(value)
            )


def coerce(kind: Any, value: Any, name: str) -> Any:
    """Return a JSON value as a value of type `kind`: an integer may stand for a float, a list for a tuple.

    Raises:
        UserError: for any other value, with the `name` of the setting, the value and what is accepted.
    """
    return _checked(kind, value, name, lambda adapter: adapter.validate_json(json.dumps(value, default=str)))


def _checked(kind: Any, value: Any, name: str, validate: "Callable[[TypeAdapter], Any]") -> Any:
    # Imported late: the import takes up to a quarter of a second, and a command that only prints help does without it.
    from pydantic import ValidationError

    try:
        found = validate(_adapter(kind))
    except ValidationError as error:
        raise _refusal(kind, value, name, error) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{name} {_shown.repr(value)}: has to be {accepted(kind)}") from error
    for number in found if isinstance(found, tuple) else (found,):
        if isinstance(number, int) and number.bit_length() > _INTEGER_BITS:
            raise UserError(f"{name} {_shown.repr(value)}: has to be an integer of at most {_INTEGER_BITS} bits")
    return found


@cache
def _adapter(kind: Any) -> "TypeAdapter":
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def _flag(name: str, kind: Any) -> str:
    """Return the flag of a field: the alias in its annotation for tyro, if it has one, else its name."""
    aliases = [alias for data in getattr(kind, "__metadata__", ()) for alias in getattr(data, "aliases", None) or ()]
    return aliases[0] if aliases else "--" + name.replace("_", "-")


def _refusal(kind: Any, value: Any, name: str, error: "ValidationError") -> UserError:
    mistakes = error.errors(include_url=False)
    # A union has a mistake for each of its types.
    mistake = next((m for m in mistakes if m["type"] in {*_OUT_OF_RANGE, "finite_number"}), mistakes[0])
    for place in mistake["loc"]:
        if isinstance(place, int) and isinstance(value, tuple | list):
            kind, value, name = _item(kind), value[place], f"{name}[{place}]"
    wanted = accepted(kind)
    if mistake["type"] == "finite_number":
        wanted = "a finite number"
    elif mistake["type"] in _OUT_OF_RANGE:
        wanted = " and ".join(_bounds(kind)) or wanted
    return UserError(f"{name} {_shown.repr(value)}: has to be {wanted}")


def accepted(kind: Any) -> str:
    """Return in words what a type accepts, without its range: `an integer or none`, `one of herding, random`."""
    return " or ".join(_accepted(option) for option in options(kind))


def _accepted(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a tuple (as text 8,16) each of which is {accepted(get_args(kind)[0])}"
    return _NAMES.get(kind) or getattr(kind, "__name__", str(kind))


def options(kind: Any) -> list[Any]:
    """Return the types that a value may have, without ranges: several for a union, else one."""
    if get_origin(kind) is Annotated:
        return options(get_args(kind)[0])
    if isinstance(kind, types.UnionType) or get_origin(kind) is typing.Union:
        return [option for member in get_args(kind) for option in options(member)]
    return [kind]


def _item(kind: Any) -> Any:
    """Return the type of a tuple's values; for any other type, the type itself."""
    return next((get_args(option)[0] for option in options(kind) if get_origin(option) is tuple), kind)


def _bounds(kind: Any) -> Iterator[str]:
    """Yield in words the bounds of a type, and of all members of a union."""
    if get_origin(kind) in (Annotated, types.UnionType, typing.Union):
        members = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
        for member in members:
            yield from _bounds(member)
    for data in getattr(kind, "__metadata__", ()):
        for bound in data if isinstance(data, at.GroupedMetadata) else (data,):
            yield from (f"{words} {getattr(bound, name)}" for name, words in _BOUNDS.items() if hasattr(bound, name))
            if isinstance(bound, at.MinLen):
                yield f"at least {bound.min_length} long"
