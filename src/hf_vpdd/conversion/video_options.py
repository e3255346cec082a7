"""The options that all sources of video share."""

import argparse
from typing import Any


def add_video_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--fps", type=float, metavar="N", help="frames per second of the result (the files' own rate)")
    group.add_argument(
        "--image-size", type=int, default=224, metavar="S",
        help="side of square frames: shorter side resized, middle cut out; 0 leaves them as they are (224)",
    )  # fmt: skip
    group.add_argument("--skip-bad", action="store_true", help="leave out broken videos, count and list them")
    group.add_argument("--workers", type=int, metavar="N", help="processes (one per core)")
    group.add_argument("--crf", type=int, default=18, help="quality of the video, 0 to 51, lower is better (18)")
    group.add_argument(
        "--pix-fmt", choices=["yuv444p", "yuv420p"], default="yuv420p",
        help="yuv444p keeps the full resolution of colour (yuv420p, as in the videos people make)",
    )  # fmt: skip


def conversion_options(args: argparse.Namespace) -> dict[str, Any]:
    """Of `convert_video`."""
    return {
        "image_size": args.image_size or None,
        "skip_bad": args.skip_bad,
        "workers": args.workers,
        "crf": args.crf,
        "pix_fmt": args.pix_fmt,
    }
