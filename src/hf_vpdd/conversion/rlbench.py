"""`--from rlbench`: demonstrations of RLBench -> a LeRobot v3.0 dataset; they are read by `hf_vpdd.data.rlbench`."""

import argparse
from typing import TYPE_CHECKING

from .dataset_options import add_dataset_options, reading, writing


if TYPE_CHECKING:
    from ..data.conversion import Conversion


DESCRIPTION = """\
RLBench demonstrations as PerAct distributes them (TASK/all_variations/episodes/episode0/low_dim_obs.pkl and a folder
of PNG files a camera), or as RLBench writes them (TASK/variation0/episodes/...) -> LeRobot v3.0. RLBench need not be
installed; the pickles are read without running anything in them. Each demonstration becomes an episode with its
cameras, observation.state, action (the gripper's pose and whether it is open), keyframe and the first description.
"""
EXAMPLES = """\
examples:
  hf-vpdd convert dataset --from rlbench peract/train data/rlbench --camera front --camera wrist
  hf-vpdd convert dataset --from rlbench peract/train/close_jar data/close_jar

Stopped or killed, the same command goes on where it was. OUT appears when it is complete.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="a folder of tasks, one task, or one of its variations")
    add_dataset_options(parser.add_argument_group("options of --from rlbench"), "demonstrations")


def run(args: argparse.Namespace) -> "Conversion":
    from ..data.rlbench import RLBenchDataset
    from ..data.source_conversion import convert_source

    return convert_source(RLBenchDataset(args.folder, **reading(args)), "rlbench", args.out, **writing(args))
