"""Opens a dataset of whatever format: LeRobot's, a robot dataset as it is distributed, or videos."""

import os

from ..errors import InputError
from .bridge import BridgeDataset, is_bridge_folder
from .bridge_arrays import BridgeArraysDataset, is_bridge_arrays
from .calvin import CalvinDataset, is_calvin_folder
from .hdf5_demos import HDF5Dataset, is_hdf5_dataset
from .lerobot import LeRobotDataset, is_lerobot_folder
from .rlbench import RLBenchDataset, is_rlbench_folder
from .source_dataset import SourceDataset
from .video_backends import resolve_backend
from .video_dataset import VideoDataset


# Asked in this order, before videos (RLBench's pictures would pass for them); what nobody knows is LeRobot's, by its
# folder or by its id on the Hub.
_READERS = (
    (is_calvin_folder, CalvinDataset),
    (is_rlbench_folder, RLBenchDataset),
    (is_hdf5_dataset, HDF5Dataset),
    (is_bridge_folder, BridgeDataset),
    (is_bridge_arrays, BridgeArraysDataset),
)


def open_dataset(
    root_or_repo_id: str | os.PathLike,
    progress: bool = True,
    fps: float | None = None,
    streaming: bool = False,
    video_backend: str = "auto",
    revision: str | None = None,
) -> "LeRobotDataset | CalvinDataset | SourceDataset | VideoDataset":
    """The dataset in a folder or file, or on the Hub.

    Args:
        root_or_repo_id: A LeRobot dataset (folder, or id `user/name` on the Hub); or as it is distributed: a CALVIN
            folder, RLBench demonstrations, raw Bridge V2 or its numpy and TFRecord files, HDF5 files of robomimic or
            LIBERO; or a folder or list of videos, Something-Something v2, Ego4D (see `video_folder`, `ssv2`,
            `ego4d`); or `datasets:NAME[:SPLIT]` for anything that `datasets` loads with a Video column.
        progress: Show bars while much is read.
        fps: Frames per second that videos are cut into; their own rate if not given. Robot datasets have one.
        streaming: Of a LeRobot dataset on the Hub: download the tables now, each file of data or video when it is
            first needed. What lies on the disk is read when it is needed, with or without.
        video_backend: Of LeRobot datasets: "auto", "pyav" or "torchcodec"; see `video_backends`. Other videos are
            read by the times of their pictures, which PyAV does.
        revision: Of a LeRobot dataset on the Hub: branch, tag or commit.

    Raises:
        InputError: None of these, or broken; another `fps` than a robot dataset has; `streaming` of
            `datasets:NAME`, `video_backend="torchcodec"` of videos that are no LeRobot dataset, or `revision` of
            anything but a LeRobot dataset on the Hub.
    """
    dataset = _open(root_or_repo_id, progress, fps, streaming, video_backend, revision)
    if fps is not None and abs(dataset.fps - fps) > 1e-6:
        raise InputError(
            f"{root_or_repo_id} has {dataset.fps:g} frames per second of its own, {fps:g} were asked for; give fps to "
            "videos alone: data.fps: {folder: number}"
        )
    return dataset


def _open(root, progress: bool, fps: float | None, streaming: bool, video_backend: str, revision: str | None):
    from .video_rows import PREFIX

    local = os.path.exists(os.path.expanduser(root))
    if revision is not None and (local or str(root).startswith(PREFIX)):
        raise InputError(f"revision is of LeRobot datasets on the Hub; {root} is none")
    if streaming and str(root).startswith(PREFIX):
        raise InputError(
            f"{root} becomes a dataset by looking at all its rows; to stream it, give the rows to "
            "hf_vpdd.data.VideoStream (docs/human_video.md)"
        )
    resolve_backend(video_backend)  # a wrong name is an error whatever is opened
    if local and not is_lerobot_folder(root):
        for is_one, reader in _READERS:
            if is_one(root):
                return reader(root, progress=progress)
    videos = None if is_lerobot_folder(root) else open_video(root, progress, fps)
    if videos is None:
        return LeRobotDataset(root, streaming=streaming, video_backend=video_backend, revision=revision)
    if video_backend == "torchcodec":
        raise InputError(f"{root} is read by the times of its pictures, which PyAV does; leave video_backend at auto")
    return videos


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
