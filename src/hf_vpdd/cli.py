"""`hf-vpdd VERB ...`: finds the verb's module in `hf_vpdd.commands` and runs it.

A verb is a module with `SUMMARY: str`, `add_arguments(parser)` and `run(args) -> int | None`. It is imported only when
chosen, and summaries are read from the source text, so `hf-vpdd --help` costs no torch import. A verb that uses no
models sets `LIGHT = True` and is spared the registration with transformers too (see registration.py).

Exit status: what the verb returns (None is 0), 2 for wrong usage or wrong input, 130 after Ctrl-C.
"""

import argparse
import ast
import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError
from .registration import register


DESCRIPTION = "Robot policies from video pre-training: record, train, evaluate, and see what the model imagines."
EPILOG = "`hf-vpdd VERB --help` tells all about one verb. New here? `hf-vpdd doctor`, then `hf-vpdd demo`."


def verbs() -> dict[str, str]:
    """The verbs there are and their one-line summaries, in alphabetical order, without importing them."""
    from . import commands

    folder = Path(commands.__file__).parent
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_"))
    return {name.replace("_", "-"): _summary(folder / f"{name}.py") for name in names}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status.

    Args:
        argv: The words after `hf-vpdd`; those of the running process if not given.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version", "version"):
        from .version import __version__

        print(f"hf-vpdd {__version__}")
        return 0
    verb = argv[0]
    known = verbs()
    if verb not in known:
        near = difflib.get_close_matches(verb, known, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the verbs are {', '.join(known)}."
        kind = "option" if verb.startswith("-") else "verb"
        print(f"hf-vpdd: there is no {kind} '{verb}'; {hint}", file=sys.stderr)
        return 2
    try:
        command = importlib.import_module(f"hf_vpdd.commands.{verb.replace('-', '_')}")
        if not getattr(command, "LIGHT", False):
            register()
        parser = argparse.ArgumentParser(
            prog=f"hf-vpdd {verb}",
            description=command.SUMMARY,
            formatter_class=_HelpFormatter,
        )
        command.add_arguments(parser)
        return command.run(parser.parse_args(argv[1:])) or 0
    except InputError as error:
        print(f"hf-vpdd {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nhf-vpdd {verb}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `hf-vpdd info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit
        return 141


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the default of an option, except where it says nothing: of switches, and where there is none."""

    def _get_help_string(self, action):
        if action.default in (None, []) or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def _help() -> str:
    known = verbs()
    width = max(map(len, known), default=0)
    lines = [
        "usage: hf-vpdd VERB [options]",
        "       hf-vpdd --version",
        "",
        DESCRIPTION,
        "",
        "verbs:",
    ]
    lines += [f"  {name:<{width}}  {summary}" for name, summary in known.items()]
    return "\n".join([*lines, "", EPILOG])


def _summary(source: Path) -> str:
    """The string that a verb's module assigns to `SUMMARY`."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", None) == "SUMMARY" for target in node.targets):
            return ast.literal_eval(node.value)
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == "SUMMARY" and node.value:
            return ast.literal_eval(node.value)
    return ""


if __name__ == "__main__":
    sys.exit(main())
