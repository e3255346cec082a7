"""`hf-vpdd card FOLDER`: the card (README.md) of a model, an adapter or a dataset, from what its folder records.

hf-vpdd card outputs/mt10/finetune --results outputs/mt10_eval --licence apache-2.0
hf-vpdd card outputs/mt10/finetune --write
"""

import argparse
from pathlib import Path

from ..errors import InputError
from .push import add_card_arguments


SUMMARY = "Print or write the card of a model or dataset, from the records in its folder."
LIGHT = True  # loads no model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="output folder of training, of save_policy, or a LeRobot dataset")
    add("--name", metavar="USER/NAME", help="the repository that the card is for; the folder's own name if not given")
    add("--write", action="store_true", help="write FOLDER/README.md, unless one is there that somebody wrote")
    add("--out", type=Path, metavar="FILE", help="write this file instead of printing")
    add_card_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ..files import atomic_write_text
    from ..hub.contents import look_into
    from ..hub.model_card import is_rendered
    from ..hub.push import card_text, check_repo_id

    if args.write and args.out:
        raise InputError("--write and --out: give one of them.")
    if args.name:
        check_repo_id(args.name)
    contents = look_into(args.folder, args.base_model)
    name = args.name or f"USER/{contents.folder.resolve().name}"
    card, _, _ = card_text(
        contents, name, args.results, args.licence, args.data_licence, args.datasets, args.base_model, render=True
    )
    out = contents.folder / "README.md" if args.write else args.out
    if out is None:
        print(card)
        return 0
    if args.write and not is_rendered(contents.card):
        raise InputError(f"{out} was written by hand; it is not replaced. Give another file: --out FILE")
    atomic_write_text(out, card)
    print(f"Card: {out}")
    return 0
