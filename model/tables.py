"""TOML tables as frozen dataclasses: exact keys, exact types, values within their range."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """The experiment cannot be run as written; the message names the field."""


@dataclass(frozen=True, slots=True)
class Range:
    """What a number of an experiment may be; NaN is outside of all."""

    words: str
    holds: Callable[[float], bool]


Count = Annotated[int, Range("1 or more", lambda value: value >= 1)]
Whole = Annotated[int, Range("0 or more", lambda value: value >= 0)]
NotNegative = Annotated[float, Range("0 or more", lambda value: 0 <= value < math.inf)]
Positive = Annotated[float, Range("more than 0", lambda value: 0 < value < math.inf)]
Ratio = Annotated[float, Range("1 or more", lambda value: 1 <= value < math.inf)]
Share = Annotated[float, Range("at least 0 and below 1", lambda value: 0 <= value < 1)]
Coverage = Annotated[float, Range("more than 0 and at most 1", lambda value: 0 < value <= 1)]


def from_table(kind: type[Any], table: dict[str, Any], where: str) -> Any:  # noqa: ANN401
    """A dataclass from a TOML table; unknown and missing keys are errors that name the key."""
    hints = get_type_hints(kind, include_extras=True)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f", did you mean '{near[0]}'?" if near else ""
            msg = f"{join(where, key)}: unknown key{hint}"
            raise ConfigError(msg)
    values = {key: _convert(hints[key], value, join(where, key)) for key, value in table.items()}
    for name, item in fields.items():
        required = (
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            msg = f"{join(where, name)}: missing"
            raise ConfigError(msg)
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(join(where, str(error))) from None


def flat(table: dict[str, Any], where: str = "") -> dict[str, Any]:
    """The leaves of nested tables by their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in table.items():
        name = join(where, key)
        leaves |= flat(value, name) if isinstance(value, dict) else {name: value}
    return leaves


def join(where: str, key: str) -> str:
    """The dotted name of a key."""
    return f"{where}.{key}" if where else key


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401, PLR0911  one a kind
    """One TOML value as the annotated type."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            msg = f"{where}: expected a table"
            raise ConfigError(msg)
        return from_table(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _within(arguments[1], _convert(arguments[0], value, where), where)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], item, join(where, key)) for key, item in value.items()}
    if origin is Literal:
        if value not in arguments:
            msg = f"{where}: '{value}' is not one of {', '.join(map(str, arguments))}"
            raise ConfigError(msg)
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or type(value) is hint:
        return value
    msg = f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}"
    raise ConfigError(msg)


def _within(allowed: Range, number: float, where: str) -> float:
    if not allowed.holds(number):
        msg = f"{where}: {number} is not {allowed.words}"
        raise ConfigError(msg)
    return number
