"""Which library decodes the videos of datasets: PyAV, which is always there, or torchcodec, where it is installed.

"auto" takes torchcodec if it is installed and loads (it needs a matching FFmpeg), else PyAV. The environment variable
HF_VPDD_VIDEO_BACKEND takes the place of "auto". `LeRobotDataset.video_backend`, `hf-vpdd info` and the bar of a frame
cache show the choice. torchcodec patches damaged pictures and does not tell: of datasets with checksums
(`packet_sums`) each file's are compared before it is read, of others PyAV is the stricter reader.
"""

import importlib.util
import os
import warnings
from collections import OrderedDict
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np

from ..errors import InputError
from .packet_sums import check_packets
from .video import VideoReader


BACKENDS = ("auto", "pyav", "torchcodec")
VARIABLE = "HF_VPDD_VIDEO_BACKEND"


def resolve_backend(name: str = "auto") -> str:
    """ "pyav" or "torchcodec".

    Raises:
        InputError: An unknown name, or "torchcodec" where it cannot be used.
    """
    if name == "auto":
        name = os.environ.get(VARIABLE) or "auto"
    if name not in BACKENDS:
        raise InputError(f"video backend {name!r} is none of {', '.join(BACKENDS)}")
    if name == "auto":
        if importlib.util.find_spec("torchcodec") is None:
            return "pyav"
        problem = _torchcodec_problem()
        if problem:
            warnings.warn(f"torchcodec is installed but does not load ({problem}); PyAV decodes instead", stacklevel=3)
        return "pyav" if problem else "torchcodec"
    if name == "torchcodec":
        problem = _torchcodec_problem()
        if problem:
            raise InputError(f"video backend torchcodec cannot be used: {problem}; use pyav, which needs nothing else")
    return name


def describe_backend(name: str) -> str:
    """ "PyAV 18.1.0" """
    title, distribution = {"pyav": ("PyAV", "av"), "torchcodec": ("torchcodec", "torchcodec")}[name]
    return f"{title} {metadata.version(distribution)}"


def make_video_reader(backend: str, max_open: int = 8) -> "VideoReader | TorchcodecReader":
    """A reader of a resolved backend; both have `read(path, first, count, fps)` and `close()`."""
    return TorchcodecReader(max_open) if backend == "torchcodec" else VideoReader(max_open)


@lru_cache(maxsize=1)
def _torchcodec_problem() -> str | None:
    """Why torchcodec cannot be used; None if it can."""
    try:
        from torchcodec.decoders import VideoDecoder  # noqa: F401
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed (pip install torchcodec)"
    except (ImportError, OSError, RuntimeError) as error:
        return str(error).strip().splitlines()[0]
    return None


class TorchcodecReader:
    """As `VideoReader`, through torchcodec: at most `max_open` decoders are kept.

    Checksums are compared for a whole file when it is first read.
    """

    def __init__(self, max_open: int = 8):
        self.max_open = max_open
        self._open: OrderedDict = OrderedDict()
        self._checked: set[str] = set()

    def read(
        self, path: str | os.PathLike, first: int, count: int, fps: float, sums: np.ndarray | None = None
    ) -> np.ndarray:
        """Frames `first` to `first + count - 1` of a file of constant rate, uint8 RGB (count, H, W, 3).

        `sums`: int64 (frames of the file,) checksums that its packets must have, see `packet_sums`.

        Raises:
            InputError: No such file, no video, it ends before, a frame is not at the time its index says, or the file
                has other checksums.
        """
        from torchcodec.decoders import VideoDecoder

        if not Path(path).is_file():
            raise InputError(f"video file {path} is missing")
        if sums is not None and str(path) not in self._checked:
            check_packets(path, fps, sums)
            self._checked.add(str(path))
        try:
            # "approximate" counts on a constant frame rate and spares reading the file through; see the times below.
            decoder = self._open.pop(str(path), None) or VideoDecoder(
                str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate"
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(f"video file {path} cannot be opened (cut short or not a video): {error}") from error
        self._open[str(path)] = decoder
        while len(self._open) > self.max_open:
            self._open.popitem(last=False)
        if len(decoder) < first + count:
            raise InputError(
                f"video file {path} has {len(decoder)} frames, frames {first} to {first + count - 1} are needed"
            )
        try:
            batch = decoder.get_frames_in_range(first, first + count)
        except (RuntimeError, ValueError, IndexError) as error:
            self._open.pop(str(path), None)
            raise InputError(f"video file {path} cannot be decoded near frame {first}: {error}") from error
        off = np.abs(batch.pts_seconds.numpy() * fps - np.arange(first, first + count))
        if (off > 0.1).any():
            bad = int(np.argmax(off > 0.1))
            raise InputError(
                f"video file {path} has frame {first + bad} at {float(batch.pts_seconds[bad]):.4f} s, expected "
                f"{(first + bad) / fps:.4f} s; the fps in meta/info.json does not match the video"
            )
        return batch.data.numpy()

    def close(self) -> None:
        self._open.clear()
