"""Opens a dataset of whatever format: LeRobot's, a robot dataset as it is distributed, or videos."""

import os

from ..errors import InputError
from .calvin import CalvinDataset, is_calvin_folder
from .lerobot import LeRobotDataset, is_lerobot_folder
from .video_dataset import VideoDataset


def open_dataset(
    root_or_repo_id: str | os.PathLike, progress: bool = True, fps: float | None = None
) -> "LeRobotDataset | CalvinDataset | VideoDataset":
    """The dataset in a folder, or on the Hub.

    Args:
        root_or_repo_id: A LeRobot dataset (folder, or id `user/name` on the Hub); a CALVIN folder; a folder or list of
            videos, Something-Something v2, Ego4D (see `video_folder`, `ssv2`, `ego4d`); or `datasets:NAME[:SPLIT]`
            for anything that `datasets` loads with a Video column.
        progress: Show bars while much is read.
        fps: Frames per second that videos are cut into; their own rate if not given. Robot datasets have one.

    Raises:
        InputError: None of these, or broken; another `fps` than a robot dataset has.
    """
    dataset = _open(root_or_repo_id, progress, fps)
    if fps is not None and abs(dataset.fps - fps) > 1e-6:
        raise InputError(
            f"{root_or_repo_id} has {dataset.fps:g} frames per second of its own, {fps:g} were asked for; give fps to "
            "videos alone: data.fps: {folder: number}"
        )
    return dataset


def _open(root: str | os.PathLike, progress: bool, fps: float | None):
    if is_lerobot_folder(root):
        return LeRobotDataset(root)
    if is_calvin_folder(root):
        return CalvinDataset(root, progress=progress)
    return open_video(root, progress, fps) or LeRobotDataset(root)


def open_video(root: str | os.PathLike, progress: bool = True, fps: float | None = None) -> VideoDataset | None:
    """The dataset, if it is one of videos."""
    from .ego4d import is_ego4d, open_ego4d
    from .ssv2 import is_ssv2, open_ssv2
    from .video_folder import is_video_folder, open_video_folder
    from .video_rows import PREFIX, open_video_rows

    if str(root).startswith(PREFIX):
        return open_video_rows(str(root), fps=fps, progress=progress)
    for belongs, opens in ((is_ssv2, open_ssv2), (is_ego4d, open_ego4d), (is_video_folder, open_video_folder)):
        if belongs(root):
            return opens(root, fps=fps, progress=progress)
    return None
