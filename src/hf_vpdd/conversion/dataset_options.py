"""Options that every `hf-vpdd convert dataset --from ...` of demonstrations has."""

import argparse
from typing import Any


def add_dataset_options(group: argparse._ArgumentGroup, what: str) -> None:
    """`what`: the word for what is left out by --skip-bad."""
    group.add_argument(
        "--camera", action="append", dest="cameras", metavar="NAME",
        help="a camera to convert; give it again for more (all that are there)",
    )  # fmt: skip
    group.add_argument("--no-actions", action="store_true", help="leave the actions out: captioned video")
    group.add_argument("--skip-bad", action="store_true", help=f"leave out broken {what}, count and list them")
    group.add_argument("--workers", type=int, metavar="N", help="processes (one per core)")
    group.add_argument("--crf", type=int, default=18, help="quality of the video, 0 to 51, lower is better (18)")
    group.add_argument(
        "--pix-fmt", choices=["yuv444p", "yuv420p"], default="yuv444p",
        help="yuv420p plays in any browser, with half the resolution of colour (yuv444p)",
    )  # fmt: skip


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """For the dataset."""
    return {"cameras": args.cameras, "skip_bad": args.skip_bad}


def writing(args: argparse.Namespace) -> dict[str, Any]:
    """For `convert_source`."""
    return {
        "actions": not args.no_actions,
        "skip_bad": args.skip_bad,
        "workers": args.workers,
        "crf": args.crf,
        "pix_fmt": args.pix_fmt,
    }
