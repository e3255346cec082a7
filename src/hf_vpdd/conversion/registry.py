"""What `hf-vpdd convert` can read: kinds of things, and for each kind the projects they come from.

A source is a module of this folder with

    DESCRIPTION: str                               for --help
    EXAMPLES: str
    add_arguments(parser)                          its own options
    run(args) -> Report                            `args` has them, and `out` (and `overwrite`, of a kind that
                                                   overwrites); anything with text() will do
"""

import importlib
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Source:
    """`summary`: one line for --help. `module`: in this folder, imported only when chosen."""

    summary: str
    module: str

    def load(self) -> ModuleType:
        return importlib.import_module(f"{__package__}.{self.module}")


@dataclass(frozen=True)
class Kind:
    """Something to convert, and from where. `overwrites`: whether --overwrite may replace what is in OUT."""

    summary: str
    sources: dict[str, Source]
    overwrites: bool = True


KINDS = {
    "checkpoint": Kind(
        "weights of an original implementation -> a folder that from_pretrained loads",
        {
            "vpdd": Source("github.com/tinnerhrhe/VPDD: video tokenizer, pre-trained and fine-tuned models", "vpdd"),
            "gr1": Source("github.com/bytedance/GR-1: the CALVIN policies, snapshot_*.pt", "gr1"),
            "icvf": Source("github.com/dibyaghosh/icvf_release: values from video, Flax msgpack or npz", "icvf"),
        },
    ),
    "dataset": Kind(
        "a robot dataset of another format, or videos -> a LeRobot v3.0 dataset",
        {
            "calvin": Source("CALVIN folders, task_X_Y or one of its splits: annotated windows", "calvin"),
            "rlbench": Source("RLBench demonstrations, PerAct's layout or RLBench's own", "rlbench"),
            "bridge": Source("Bridge V2: raw trajectories, or out.npy and out.tfrecord of its scripts", "bridge"),
            "robomimic": Source("HDF5 files of robomimic (and MimicGen)", "robomimic"),
            "libero": Source("HDF5 files of LIBERO", "libero"),
            "video": Source(
                "a folder or list of videos, with or without captions; a `datasets` Video column", "video"
            ),
            "ssv2": Source("Something-Something v2: webm files and label JSON files", "ssv2"),
            "ego4d": Source("Ego4D: videos or clips, with narrations or annotated actions", "ego4d"),
        },
        overwrites=False,
    ),
}
