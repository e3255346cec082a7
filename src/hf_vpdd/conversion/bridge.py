"""`--from bridge`: Bridge V2 -> a LeRobot v3.0 dataset; it is read by `hf_vpdd.data.bridge` and `bridge_arrays`."""

import argparse
from typing import TYPE_CHECKING

from .dataset_options import add_dataset_options, reading, writing


if TYPE_CHECKING:
    from ..data.conversion import Conversion


DESCRIPTION = """\
Raw Bridge V2 (.../TASK/NN/DATE/raw/traj_group0/traj0 with obs_dict.pkl, policy_out.pkl and images0/im_0.jpg) ->
LeRobot v3.0. Each trajectory becomes an episode with the cameras that all of them have, observation.state (7), action
(7) and the first line of lang.txt, or else the task that the folders name. FOLDER may also hold what Bridge's own
scripts make of that: out.npy (read without running anything) or out.tfrecord (read without TensorFlow). Exports of
Bridge to LeRobot need no conversion.
"""
EXAMPLES = """\
examples:
  hf-vpdd convert dataset --from bridge bridgedata_raw data/bridge --camera images0 --skip-bad
  hf-vpdd convert dataset --from bridge bridgedata_raw/rss/toykitchen2 data/kitchen2 --described-only
  hf-vpdd convert dataset --from bridge bridgedata_numpy data/bridge --split train

Stopped or killed, the same command goes on where it was. OUT appears when it is complete.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", help="bridgedata_raw, or any folder below that holds trajectories or their arrays"
    )
    group = parser.add_argument_group("options of --from bridge")
    group.add_argument("--described-only", action="store_true", help="leave out trajectories without lang.txt")
    group.add_argument("--split", choices=["train", "val"], help="of out.npy and out.tfrecord (both)")
    add_dataset_options(group, "trajectories")


def run(args: argparse.Namespace) -> "Conversion":
    from ..data.bridge import BridgeDataset, is_bridge_folder
    from ..data.bridge_arrays import BridgeArraysDataset, is_bridge_arrays
    from ..data.source_conversion import convert_source
    from ..errors import InputError

    if not is_bridge_folder(args.folder) and is_bridge_arrays(args.folder):
        if args.described_only:
            raise InputError("--described-only is of raw trajectories, which have a lang.txt; leave it out")
        dataset = BridgeArraysDataset(args.folder, split=args.split, **reading(args))
    else:
        if args.split is not None:
            raise InputError("--split is of out.npy and out.tfrecord files; raw trajectories have no splits")
        dataset = BridgeDataset(args.folder, described_only=args.described_only, **reading(args))
    return convert_source(dataset, "bridge", args.out, **writing(args))
