"""`hf-vpdd push FOLDER USER/NAME`: a finished run, a model, an adapter or a dataset to the Hugging Face Hub.

hf-vpdd push outputs/mt10/finetune me/mt10-policy --results outputs/mt10_eval --licence apache-2.0 --dry-run
hf-vpdd push outputs/mt10/finetune me/mt10-policy --results outputs/mt10_eval --licence apache-2.0
hf-vpdd push data/metaworld_tiny me/metaworld-tiny --private
"""

import argparse


SUMMARY = "Push a run, a model, an adapter or a dataset to the Hugging Face Hub, with its card."
LIGHT = True  # loads no model


def add_card_arguments(parser: argparse.ArgumentParser) -> None:
    """What `push` and `card` ask about a card."""
    add = parser.add_argument
    add(
        "--results", nargs="+", default=[], metavar="OUT",
        help="folders of `hf-vpdd eval` for the card; those inside FOLDER are found; of these very weights alone",
    )  # fmt: skip
    add("--licence", "--license", metavar="ID", help='as the Hub spells it, e.g. apache-2.0; else "not stated"')
    add("--data-licence", "--data-license", metavar="TEXT", help="of the data that the model was trained on")
    add("--datasets", nargs="+", default=[], metavar="USER/NAME", help="Hub names of that data, if it is there")
    add("--base-model", metavar="USER/NAME", help="Hub name of what the model or adapter was trained from")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "Examples:\n" + "\n".join("  " + line for line in __doc__.strip().splitlines()[2:])
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="output folder of training, of save_policy, or a LeRobot dataset")
    add("repo_id", metavar="USER/NAME", help="the repository; it is made if it does not exist")
    add("--private", action="store_true", default=None, help="make a new repository private")
    add("--revision", metavar="BRANCH", help="push to this branch")
    add("--create-pr", action="store_true", help="open a pull request instead")
    add("--message", metavar="TEXT", help="of the commit")
    add("--dry-run", action="store_true", help="check everything, show files and card, send nothing")
    add_card_arguments(parser)
    card = parser.add_mutually_exclusive_group()
    card.add_argument("--render-card", action="store_true", help="make the card anew, though FOLDER has one by hand")
    card.add_argument("--keep-card", action="store_true", help="leave the card of the repository as it is")


def run(args: argparse.Namespace) -> int:
    from ..hub.push import push_to_hub

    push = push_to_hub(
        args.folder, args.repo_id, private=args.private, revision=args.revision, create_pr=args.create_pr,
        commit_message=args.message, results=args.results, licence=args.licence, data_licence=args.data_licence,
        datasets=args.datasets, base_model=args.base_model, render_card=args.render_card, keep_card=args.keep_card,
        dry_run=args.dry_run,
    )  # fmt: skip
    shown = sorted(push.files.items())
    for name, size in shown[:30]:
        print(f"  {name:<40} {_size(size):>10}")
    if len(shown) > 30:
        print(f"  and {len(shown) - 30} more")
    total = f"{len(shown)} files, {_size(sum(push.files.values()))}"
    print(f"card: {'rendered from the files of the run' if push.rendered else 'README.md of the folder, as it is'}")
    if args.dry_run:
        print(f"\n{push.card}\nNothing was sent. Without --dry-run: {total} to {push.url}")
    else:
        print(f"{total}: {push.commit or push.url}")
    return 0


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
