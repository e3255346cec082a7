"""Opens a dataset of whatever format: LeRobot's, or a robot dataset as it is distributed."""

import os

from .calvin import CalvinDataset, is_calvin_folder
from .lerobot import LeRobotDataset, is_lerobot_folder


def open_dataset(root_or_repo_id: str | os.PathLike, progress: bool = True) -> "LeRobotDataset | CalvinDataset":
    """The dataset in a folder, or on the Hub.

    Args:
        root_or_repo_id: A LeRobot dataset (folder, or id `user/name` on the Hub), or a CALVIN folder.
        progress: Show bars while much is read.

    Raises:
        InputError: Neither, or broken.
    """
    if not is_lerobot_folder(root_or_repo_id) and is_calvin_folder(root_or_repo_id):
        return CalvinDataset(root_or_repo_id, progress=progress)
    return LeRobotDataset(root_or_repo_id)
