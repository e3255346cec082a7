"""`--from calvin`: a CALVIN folder -> a LeRobot v3.0 dataset; the work is done in `hf_vpdd.data.calvin_conversion`."""

import argparse
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..data.conversion import Conversion


DESCRIPTION = """\
A CALVIN dataset as it is distributed (episode_*.npz, lang_annotations/auto_lang_ann.npy) -> LeRobot v3.0. Each
annotated window becomes an episode with both cameras, observation.state (pose and gripper), action (rel_actions) and
the sentence. Training takes CALVIN folders as they are, too; a converted dataset is smaller and loads anywhere.
"""
EXAMPLES = """\
examples:
  hf-vpdd convert dataset --from calvin task_ABC_D data/calvin_abc
  hf-vpdd convert dataset --from calvin task_ABCD_D data/calvin_tenth --per-task 66
  hf-vpdd convert dataset --from calvin task_D_D data/calvin_video --no-actions --split validation

Stopped or killed, the same command goes on where it was. OUT appears when it is complete.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="task_X_Y, or its folder training or validation")
    group = parser.add_argument_group("options of --from calvin")
    group.add_argument("--split", choices=["training", "validation"], help="which split of task_X_Y (training)")
    group.add_argument("--per-task", type=int, metavar="K", help="only the first K windows of each task")
    group.add_argument("--no-actions", action="store_true", help="leave the actions out: captioned video")
    group.add_argument("--skip-bad", action="store_true", help="leave out broken windows, count and list them")
    group.add_argument("--workers", type=int, metavar="N", help="processes (one per core)")
    group.add_argument("--crf", type=int, default=18, help="quality of the video, 0 to 51, lower is better (18)")
    group.add_argument(
        "--pix-fmt", choices=["yuv444p", "yuv420p"], default="yuv444p",
        help="yuv420p plays in any browser, with half the resolution of colour (yuv444p)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> "Conversion":
    from ..data.calvin_conversion import convert_calvin

    return convert_calvin(
        args.folder,
        args.out,
        split=args.split,
        per_task=args.per_task,
        actions=not args.no_actions,
        skip_bad=args.skip_bad,
        workers=args.workers,
        crf=args.crf,
        pix_fmt=args.pix_fmt,
    )
