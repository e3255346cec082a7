"""What the scripts in training/ do: parse, run, and print bad input as one line."""

import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from .arguments import Recipe, parse_command_line


def main(stage: str, run: Callable[[Recipe], Path], description: str | None) -> int:
    """Exit status: 0 done, 2 bad input, 130 Ctrl-C; SIGTERM leaves through `Terminated` (143) after saving."""
    try:
        folder = run(parse_command_line(stage, description=description))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; checkpoints that were saved are whole", file=sys.stderr)
        return 130
    print(f"{stage}: {folder}")
    return 0
