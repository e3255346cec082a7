"""Episodes in: LeRobot datasets (reading, writing, recording), statistics, frame and token caches, training windows.

Nothing here knows the networks. Names are imported lazily, so that asking for one part does not load PyAV or torch.
"""

from importlib import import_module


_HOME = {
    "BridgeArraysDataset": "bridge_arrays",
    "BridgeDataset": "bridge",
    "CalvinDataset": "calvin",
    "FrameStore": "frame_store",
    "HDF5Dataset": "hdf5_demos",
    "LeRobotDataset": "lerobot",
    "LeRobotWriter": "lerobot_writer",
    "RLBenchDataset": "rlbench",
    "RunningStatistics": "statistics",
    "VideoDataset": "video_dataset",
    "StreamMixture": "video_stream",
    "VideoStream": "video_stream",
    "WindowDataset": "windows",
    "build_views": "multiview",
    "check_dataset": "check",
    "convert_dataset": "conversion",
    "convert_source": "source_conversion",
    "dataset_fingerprint": "lerobot",
    "decode_video": "video",
    "encode_video": "video",
    "find_keyframes": "keyframes",
    "flatten_views": "multiview",
    "join_views": "multiview",
    "next_keyframes": "keyframes",
    "open_codes": "token_shards",
    "open_dataset": "formats",
    "open_ego4d": "ego4d",
    "open_ssv2": "ssv2",
    "open_video_folder": "video_folder",
    "open_video_rows": "video_rows",
    "tokenize": "tokens",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
