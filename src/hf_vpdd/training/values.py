"""Values of options: from text to what an option wants, and back to what --help shows."""

import math
import types
import typing
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError


def coerce(value: Any, kind: Any, where: str) -> Any:
    """`value` (from YAML or a command line) as `kind`, or an InputError naming `where`."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return coerce(value, next(k for k in inner if k is not type(None)), where)
    if origin is Literal:
        if kind is not None and isinstance(value, bool) and "no" in inner:  # YAML: `mixed_precision: no`
            value = "no" if not value else value
        if value not in inner:
            raise InputError(f"{where} must be one of {', '.join(map(str, inner))}; got {value!r}")
        return value
    if origin is list:
        items = [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise InputError(f"{where} must be a list, got {value!r}")
        return [coerce(v, inner[0], where) for v in items]
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or len(items) != len(inner):
            raise InputError(f"{where} must be {len(inner)} values, got {value!r}")
        return tuple(coerce(v, k, where) for v, k in zip(items, inner, strict=True))
    if kind is bool:
        text = str(value).lower()
        if text in ("true", "yes", "on", "1"):
            return True
        if text in ("false", "no", "off", "0"):
            return False
        raise InputError(f"{where} must be true or false, got {value!r}")
    if kind in (int, float):
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise InputError(f"{where} must be {'a whole number' if kind is int else 'a number'}, got {value!r}")
        return int(number) if kind is int else number
    if kind is str:
        if not isinstance(value, (str, int, float, Path)) or isinstance(value, bool):
            raise InputError(f"{where} must be text, got {value!r}")
        return str(value)
    return value


def number_text(value: Any) -> Any:
    """Text that is a number (1e-6 in YAML) as the number, also inside lists and mappings."""
    if isinstance(value, dict):
        return {k: number_text(v) for k, v in value.items()}
    if isinstance(value, list):
        return [number_text(v) for v in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def choices(kind: Any) -> list[str]:
    """What --help lists: the values of a Literal."""
    kind = _given(kind)
    return [str(v) for v in typing.get_args(kind)] if typing.get_origin(kind) is Literal else []


def metavar(kind: Any) -> str:
    """The word for a value in --help."""
    kind = _given(kind)
    if kind is int:
        return "N"
    if kind is float:
        return "X"
    return {list: "A,B", tuple: "A,B", Literal: "NAME"}.get(typing.get_origin(kind), "TEXT")


def show(value: Any) -> str:
    """A default as it would be written on the command line."""
    return (
        ",".join(map(str, value))
        if isinstance(value, (list, tuple))
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _given(kind: Any) -> Any:
    """The type of an optional value when it is given."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(k for k in typing.get_args(kind) if k is not type(None))
    return kind
