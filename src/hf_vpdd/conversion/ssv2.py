"""`--from ssv2`: Something-Something v2 -> a LeRobot v3.0 dataset; see `hf_vpdd.data.ssv2`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .video_options import add_video_arguments, conversion_options


if TYPE_CHECKING:
    from ..data.conversion import Conversion


DESCRIPTION = """\
Something-Something v2 as it is distributed (20bn-something-something-v2/<id>.webm and the label JSON files) -> LeRobot
v3.0 without actions. Each clip becomes an episode; its sentence is the template with the placeholders filled.
"""
EXAMPLES = """\
examples:
  hf-vpdd convert dataset --from ssv2 ssv2/ data/ssv2 --image-size 96
  hf-vpdd convert dataset --from ssv2 ssv2/ data/ssv2_val --split validation --skip-bad

Training takes FOLDER as it is, too (data.root). Stopped or killed, the same command goes on where it was.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="the folder with the labels, or the JSON file of a split")
    group = parser.add_argument_group("options of --from ssv2")
    group.add_argument("--split", choices=["train", "validation", "test"], help="which split of FOLDER (train)")
    add_video_arguments(group)


def run(args: argparse.Namespace) -> "Conversion":
    from ..data.ssv2 import find_labels, open_ssv2
    from ..data.video_conversion import convert_video

    dataset = open_ssv2(args.folder, args.split, args.fps, skip_bad=args.skip_bad)
    folder = Path(args.folder).expanduser()
    listing = folder if folder.is_file() else find_labels(folder, args.split or "train")
    return convert_video(dataset, args.out, "ssv2", listing=listing, **conversion_options(args))
