"""Opens a dataset of whatever format: LeRobot's, or a robot dataset as it is distributed."""

import os

from .bridge import BridgeDataset, is_bridge_folder
from .calvin import CalvinDataset, is_calvin_folder
from .hdf5_demos import HDF5Dataset, is_hdf5_dataset
from .lerobot import LeRobotDataset, is_lerobot_folder
from .rlbench import RLBenchDataset, is_rlbench_folder
from .source_dataset import SourceDataset


# Asked in this order; what none of them knows is LeRobot's, by its folder or by its id on the Hub.
_READERS = (
    (is_calvin_folder, CalvinDataset),
    (is_rlbench_folder, RLBenchDataset),
    (is_hdf5_dataset, HDF5Dataset),
    (is_bridge_folder, BridgeDataset),
)


def open_dataset(
    root_or_repo_id: str | os.PathLike, progress: bool = True
) -> "LeRobotDataset | CalvinDataset | SourceDataset":
    """The dataset in a folder or file, or on the Hub.

    Args:
        root_or_repo_id: A LeRobot dataset (folder, or id `user/name` on the Hub); or as it is distributed: a CALVIN
            folder, RLBench demonstrations, raw Bridge V2, HDF5 files of robomimic or LIBERO.
        progress: Show bars while much is read.

    Raises:
        InputError: None of them, or broken.
    """
    if not is_lerobot_folder(root_or_repo_id) and os.path.exists(os.path.expanduser(root_or_repo_id)):
        for is_one, reader in _READERS:
            if is_one(root_or_repo_id):
                return reader(root_or_repo_id, progress=progress)
    return LeRobotDataset(root_or_repo_id)
