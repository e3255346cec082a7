"""`--from libero`: HDF5 files -> a LeRobot v3.0 dataset; they are read by `hf_vpdd.data.hdf5_demos`."""

import argparse
from typing import TYPE_CHECKING

from .dataset_options import add_dataset_options
from .robomimic import convert_hdf5


if TYPE_CHECKING:
    from ..data.conversion import Conversion


DESCRIPTION = """\
HDF5 demonstrations of LIBERO (libero_spatial/*_demo.hdf5, one file a task) -> LeRobot v3.0. Each data/demo_N becomes
an episode with both cameras, observation.state (hand, axis-angle, fingers: 8), action (gripper: +1 closes) and the
file's sentence. LIBERO stores pictures upside down: they are turned over. Needs h5py: pip install 'hf-vpdd[hdf5]'.
"""
EXAMPLES = """\
examples:
  hf-vpdd convert dataset --from libero libero_spatial data/libero_spatial
  hf-vpdd convert dataset --from libero libero_10 data/libero_10 --orientation rotated    # as OpenVLA and LeRobot do

Stopped or killed, the same command goes on where it was. OUT appears when it is complete.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="a folder of *_demo.hdf5, or one file")
    group = parser.add_argument_group("options of --from libero")
    group.add_argument(
        "--orientation", choices=["upright", "stored", "rotated"], default="upright",
        help="upright: turned over, as a camera sees it; stored: upside down, as in the files; rotated: by 180 "
        "degrees, mirrored, as in the exports of OpenVLA and LeRobot (upright)",
    )  # fmt: skip
    add_dataset_options(group, "demonstrations")


def run(args: argparse.Namespace) -> "Conversion":
    return convert_hdf5(args, "libero", orientation=args.orientation)
