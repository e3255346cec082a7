"""Checksums of video packets, by which a changed byte is noticed that still decodes to a picture.

A video decoder hides damage, and one flipped bit in ten decodes to a wrong picture without any complaint even from a
strict one. `LeRobotWriter` therefore keeps `meta/packet_crc32.parquet`: one uint32 column per video feature, one row
per frame of the dataset in order of `index`, the CRC-32 of the decoder's parameter sets followed by the packet that
holds the frame. It costs 4 bytes a frame. LeRobot ignores the file; datasets without it are read too.
"""

import zlib
from pathlib import Path

import av
import numpy as np

from ..errors import InputError
from .lerobot_files import read_parquet


SUMS_FILE = "packet_crc32.parquet"
UNKNOWN = -1


def packet_seed(stream: av.VideoStream) -> int:
    """Where the checksum of each packet of a stream begins: at that of the decoder's parameter sets."""
    return zlib.crc32(bytes(stream.codec_context.extradata or b""))


def packet_sum(packet: av.Packet, seed: int) -> int:
    return zlib.crc32(packet, seed)


def read_packet_sums(root: Path, keys: list[str], num_frames: int) -> dict[str, np.ndarray]:
    """uint32 (num_frames,) by video feature; empty for a dataset without checksums.

    Raises:
        InputError: The table is broken, or of another number of frames.
    """
    path = root / "meta" / SUMS_FILE
    if not keys or not path.is_file():
        return {}
    table = read_parquet(path, list(keys))
    if table.num_rows != num_frames:
        raise InputError(
            f"{path} has {table.num_rows} rows, the dataset {num_frames} frames; remove that file if the dataset was "
            "changed by another program, or copy the dataset again"
        )
    return {key: table.column(key).to_numpy() for key in keys}


def sums_of_file(sums: np.ndarray, start: np.ndarray, length: np.ndarray, video_start: np.ndarray) -> np.ndarray:
    """int64 (frames of one video file,), `UNKNOWN` for frames of no episode.

    Args:
        sums: uint32 (N,), of all frames of the dataset.
        start, length, video_start: int64 (E,) of the episodes in the file: first row of the dataset, number of
            frames, first frame in the file.
    """
    output = np.full(int((video_start + length).max()), UNKNOWN, np.int64)
    for row, number, place in zip(start.tolist(), length.tolist(), video_start.tolist()):
        output[place : place + number] = sums[row : row + number]
    return output


class PacketCheck:
    """Compares the packets of one opened file with their checksums.

    Args:
        path: For messages.
        sums: int64 (frames of the file,), see `sums_of_file`.
        fps: Frames per second; a packet's time says which frame it is.
    """

    def __init__(self, path, stream: av.VideoStream, sums: np.ndarray, fps: float):
        self._path, self._sums, self._fps = path, sums, fps
        self._seed = packet_seed(stream)

    def wrong_frame(self, packet: av.Packet) -> int | None:
        """The frame of a packet that is not the one written for it; None if it is, or if nothing is known of it."""
        if not packet.size or packet.pts is None:  # the empty packet at the end means "flush"
            return None
        position = float(packet.pts * packet.time_base) * self._fps
        frame = round(position)
        if abs(position - frame) > 0.1:  # the dataset's rate is not the video's; those who read frames say so
            return None
        known = self._sums[frame] if 0 <= frame < len(self._sums) else UNKNOWN
        return frame if known != UNKNOWN and known != packet_sum(packet, self._seed) else None

    def __call__(self, packet: av.Packet) -> None:
        """
        Raises:
            InputError: The bytes are not those that were written.
        """
        frame = self.wrong_frame(packet)
        if frame is not None:
            raise InputError(
                f"video file {self._path} was changed or damaged after it was written: frame {frame} does not have "
                f"its checksum; copy the dataset again, or remove meta/{SUMS_FILE} if the change was meant"
            )


def check_packets(path, fps: float, sums: np.ndarray) -> None:
    """Compares a whole file without decoding it.

    Raises:
        InputError: It is broken, or its bytes are not those that were written.
    """
    from .video import open_video

    with open_video(path) as container:
        stream = container.streams.video[0]
        check = PacketCheck(path, stream, sums, fps)
        try:
            for packet in container.demux(stream):
                check(packet)
        except av.error.FFmpegError as error:
            raise InputError(f"video file {path} cannot be read: {error}") from error
