"""`--from robomimic`: HDF5 files -> a LeRobot v3.0 dataset; they are read by `hf_vpdd.data.hdf5_demos`."""

import argparse
from typing import TYPE_CHECKING

from ..errors import InputError
from .dataset_options import add_dataset_options, reading, writing


if TYPE_CHECKING:
    from ..data.conversion import Conversion


DESCRIPTION = """\
HDF5 demonstrations of robomimic with pictures (image_v15.hdf5; make them of states with dataset_states_to_obs.py) ->
LeRobot v3.0. Each data/demo_N becomes an episode with its cameras, observation.state (hand, quaternion, fingers),
action (gripper: +1 closes) and a sentence. Needs h5py: pip install 'hf-vpdd[hdf5]'.
"""
EXAMPLES = """\
examples:
  hf-vpdd convert dataset --from robomimic can/ph/image_v15.hdf5 data/can --instruction "put the can into its bin"

Stopped or killed, the same command goes on where it was. OUT appears when it is complete.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FILE", help="an HDF5 file, or a folder of them")
    group = parser.add_argument_group("options of --from robomimic")
    group.add_argument("--instruction", metavar="TEXT", help="the sentence of every episode (from the environment)")
    add_dataset_options(group, "demonstrations")


def run(args: argparse.Namespace) -> "Conversion":
    return convert_hdf5(args, "robomimic", instruction=args.instruction)


def convert_hdf5(args: argparse.Namespace, layout: str, **options) -> "Conversion":
    """Both layouts are read by one class; asking for one and giving the other would name columns wrongly."""
    from ..data.hdf5_demos import HDF5Dataset
    from ..data.source_conversion import convert_source

    dataset = HDF5Dataset(args.folder, **options, **reading(args))
    if dataset.layout != layout:
        raise InputError(f"{args.folder} has the layout of {dataset.layout}: use --from {dataset.layout}")
    return convert_source(dataset, layout, args.out, **writing(args))
