"""`--from video`: a folder or list of videos -> a LeRobot v3.0 dataset; see `hf_vpdd.data.video_folder`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .video_options import add_video_arguments, conversion_options


if TYPE_CHECKING:
    from ..data.conversion import Conversion


DESCRIPTION = """\
Videos -> LeRobot v3.0 without actions, one episode a clip. FOLDER holds mp4, webm, mkv, mov, avi, gif or folders of
pictures, and perhaps captions.jsonl (or .csv, .parquet) with a row a clip: file, text, start, end, fps. It can also be
such a captions file, a .txt of paths, or datasets:NAME[:SPLIT], a `datasets` dataset with a Video column.
Frames are taken by time: variable frame rates and rotation marks are honoured.
"""
EXAMPLES = """\
examples:
  hf-vpdd convert dataset --from video clips/ data/clips --fps 10 --image-size 96
  hf-vpdd convert dataset --from video clips/train.csv data/train --clip-seconds 4
  hf-vpdd convert dataset --from video datasets:user/name:train data/name --text "a hand at work"

Training takes FOLDER as it is, too (data.root, data.fps). Stopped or killed, the same command goes on where it was.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", help="a folder of videos, a list of them, or datasets:NAME[:SPLIT]"
    )
    group = parser.add_argument_group("options of --from video")
    group.add_argument("--text", default="a video", help="the sentence of clips without one (a video)")
    group.add_argument("--clip-seconds", type=float, metavar="S", help="cut longer clips into pieces of S seconds")
    group.add_argument("--picture-rate", type=float, metavar="N", help="pictures per second of folders of pictures")
    add_video_arguments(group)


def run(args: argparse.Namespace) -> "Conversion":
    from ..data.video_conversion import convert_video
    from ..data.video_folder import caption_file, open_video_folder
    from ..data.video_rows import PREFIX, open_video_rows

    options = conversion_options(args)
    plan = {"text": args.text, "clip_seconds": args.clip_seconds, "picture_rate": args.picture_rate}
    given = {"fps": args.fps, "clip_seconds": args.clip_seconds, "skip_bad": args.skip_bad}
    if args.folder.startswith(PREFIX):
        dataset, listing = open_video_rows(args.folder, default_text=args.text, **given), None
    else:
        folder = Path(args.folder).expanduser()
        dataset = open_video_folder(folder, text=args.text, picture_rate=args.picture_rate, **given)
        listing = caption_file(folder) if folder.is_dir() else folder
    return convert_video(dataset, args.out, "video", listing=listing, plan=plan, **options)
