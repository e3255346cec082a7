"""Paths of the one machine, kept out of what goes to the Hub."""

import re
from typing import Any


# An absolute path of POSIX or Windows: at the start of a text, or after a space, quote, colon, equals sign or bracket.
# A backslash without a drive is none: regular expressions (of LoRA's targets) are full of them.
_POSIX = r"(?<![\w./~])(?:~|[A-Za-z]:)?/(?:[\w.@+-]+/)+[\w.@+-]*"
_WINDOWS = r"(?<![\w.:/~])[A-Za-z]:\\{1,2}(?:[\w.@+-]+\\{1,2})+[\w.@+-]*"
_PATH = re.compile(f"{_POSIX}|{_WINDOWS}")


def shorten_paths(value: Any) -> Any:
    """The same structure with absolute paths cut to their last two parts: "/home/me/data/mt10" -> "data/mt10"."""
    if isinstance(value, dict):
        return {key: shorten_paths(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [shorten_paths(one) for one in value]
    return _PATH.sub(lambda found: _end(found[0]), value) if isinstance(value, str) else value


def _end(path: str) -> str:
    parts = [part for part in re.split(r"[/\\]", path) if part]
    return "/".join(parts[-2:])
