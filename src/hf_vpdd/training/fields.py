"""Fields of argument dataclasses: defaults with a help line, and checks that name the argument."""

from dataclasses import field
from types import MappingProxyType
from typing import Any

from ..errors import InputError


def arg(default: Any, text: str) -> Any:
    """A dataclass field with its help line (units and range included)."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def grouped(title: str):
    """As `arg`, for fields that --help shows together under `title`."""

    def make(default: Any, text: str) -> Any:
        made = arg(default, text)
        made.metadata = MappingProxyType({**made.metadata, "group": title})
        return made

    return make


def check_min(arguments: Any, where: str, **least: float) -> None:
    """An `InputError` for the first argument below its bound."""
    for name, bound in least.items():
        if getattr(arguments, name) < bound:
            raise InputError(f"{where}.{name} must be at least {bound}, got {getattr(arguments, name)}")


def check_fraction(arguments: Any, where: str, *names: str) -> None:
    """An `InputError` for the first argument outside of [0, 1]."""
    for name in names:
        if not 0 <= getattr(arguments, name) <= 1:
            raise InputError(f"{where}.{name} must lie in [0, 1], got {getattr(arguments, name)}")
