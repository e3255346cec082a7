"""`--from ego4d`: Ego4D's narrated moments -> a LeRobot v3.0 dataset; see `hf_vpdd.data.ego4d`."""

import argparse
from typing import TYPE_CHECKING

from .video_options import add_video_arguments, conversion_options


if TYPE_CHECKING:
    from ..data.conversion import Conversion


DESCRIPTION = """\
Ego4D as its client downloads it (videos or clips, ego4d.json, annotations) -> LeRobot v3.0 without actions. Each
narration becomes an episode of some seconds around its moment, with its sentence without the tags ("#C C picks a
knife" -> "picks a knife"); of fho_lta_train.json and fho_lta_val.json each action, with its verb and noun.
"""
EXAMPLES = """\
examples:
  hf-vpdd convert dataset --from ego4d ego4d/ data/ego4d --fps 3                # as GR-1: 3 s, 3 frames a second
  hf-vpdd convert dataset --from ego4d ego4d/ data/ego4d --clip-seconds 2 --image-size 96
  hf-vpdd convert dataset --from ego4d ego4d/ data/actions --annotations fho_lta_train.json

Training takes FOLDER as it is, too (data.root, data.fps). Stopped or killed, the same command goes on where it was.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="the folder with ego4d.json, or an annotation file")
    group = parser.add_argument_group("options of --from ego4d")
    group.add_argument("--annotations", metavar="NAME", help="which annotation file of FOLDER (narrations first)")
    group.add_argument("--clip-seconds", type=float, default=3.0, metavar="S", help="around each narration (3)")
    add_video_arguments(group)


def run(args: argparse.Namespace) -> "Conversion":
    from ..data.ego4d import open_ego4d
    from ..data.video_conversion import convert_video

    dataset = open_ego4d(args.folder, args.annotations, args.fps, args.clip_seconds, skip_bad=args.skip_bad)
    plan = {"annotations": args.annotations, "clip_seconds": args.clip_seconds}
    return convert_video(
        dataset, args.out, "ego4d", listing=dataset.annotations_file, plan=plan, **conversion_options(args)
    )
