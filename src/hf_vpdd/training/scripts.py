"""What the scripts in training/ do: parse, run, and print bad input as one line."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from .arguments import Recipe, parse_command_line, recipe_family
from .preflight import check_before_work
from .processes import leave_processes


def main_of_family(stages: dict[str, tuple[str, Callable[[Recipe], Path]]], description: str | None) -> int:
    """A script that serves several families of models.

    Args:
        stages: family -> its stage and what runs it. Which one is meant: `--model NAME`, else the recipe's key
            `family`, else the first.
    """
    try:
        family, rest = pick_family(sys.argv[1:], list(stages))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stage, run = stages[family]
    return main(stage, run, description, rest)


def pick_family(argv: list[str], families: list[str]) -> tuple[str, list[str]]:
    """(family, the other words) of a command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    given, rest = parser.parse_known_args(argv)
    parser.add_argument("--config")
    config = parser.parse_known_args(argv)[0].config
    family = given.model or (recipe_family(config, str(config)) if config else families[0])
    if family not in families:
        raise InputError(f"--model must be one of {', '.join(families)}; got {family!r}")
    return family, rest


def main(stage: str, run: Callable[[Recipe], Path], description: str | None, argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input, 130 Ctrl-C; SIGTERM leaves through `Terminated` (143) after saving."""
    try:
        recipe = parse_command_line(stage, argv, description)
        check_before_work(recipe)
        folder = run(recipe)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; checkpoints that were saved are whole", file=sys.stderr)
        return 130
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{stage}: {folder}")
    leave_processes()
    return 0
