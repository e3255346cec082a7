"""Video files through PyAV: encode, decode, join without re-encoding.

Frames are uint8 RGB arrays of shape (T, H, W, 3). Files written here have a constant frame rate, no B-frames (so
packets come in the order they are shown, and frame t is packet t) and a key frame every `gop` frames (so seeking is
cheap).
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ..errors import InputError
from ..files import atomic_path
from .packet_sums import PacketCheck, packet_seed, packet_sum


_ENCODERS = {"h264": "libx264"}


def exact_rate(fps: float) -> Fraction:
    """Frames per second as the fraction a container can hold; 29.97 becomes 2997/100."""
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise InputError(f"fps is {fps}; a video needs a positive number of frames per second")
    return rate


def encode_video(
    path: str | os.PathLike,
    frames: np.ndarray,
    fps: float,
    *,
    codec: str = "h264",
    crf: int = 18,
    gop: int = 10,
    pix_fmt: str = "yuv420p",
    preset: str = "fast",
) -> Path:
    """Writes frames as an mp4, whole or not at all.

    Args:
        path: Where the finished file is to be.
        frames: uint8 RGB (T, H, W, 3), T >= 1. Height and width must be even unless `pix_fmt` is "yuv444p".
        fps: Frames per second.
        codec: "h264".
        crf: Quality from 0 to 51, lower is better; 18 is hard to tell from the original, 0 loses only the rounding
            from RGB to YUV.
        gop: A key frame every so many frames.
        pix_fmt: "yuv420p" halves the resolution of colour and plays everywhere; "yuv444p" keeps it.
        preset: Of x264: how long the encoder searches.

    Raises:
        InputError: Wrong shape or dtype, odd size, unknown codec or pixel format.
    """
    frames = np.asarray(frames)
    _check_frames(frames, pix_fmt, path)
    if codec not in _ENCODERS:
        raise InputError(f"video codec {codec!r} is not supported for writing; use one of {sorted(_ENCODERS)}")
    rate = exact_rate(fps)
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream(_ENCODERS[codec], rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        # One thread: recorders already run one process per core, and the bytes then do not depend on the machine.
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = 1 / rate
        # Without mbtree: on small pictures (seen from 16 to 84 pixels) it makes one encode in thirty differ from the
        # others of the same frames in the same program, and a resumed conversion is to give the same bytes.
        stream.options = {
            "crf": str(crf), "preset": preset, "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "bf": "0",
            "mbtree": "0",
        }  # fmt: skip
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return Path(path)


def _check_frames(frames: np.ndarray, pix_fmt: str, where: str | os.PathLike) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise InputError(
            f"frames for {where} are {frames.dtype} {frames.shape}; a video needs uint8 RGB frames (T, H, W, 3), "
            "T at least 1"
        )
    if pix_fmt not in ("yuv420p", "yuv444p"):
        raise InputError(f"pixel format {pix_fmt!r} is not supported for writing; use 'yuv420p' or 'yuv444p'")
    if pix_fmt == "yuv420p" and (frames.shape[1] % 2 or frames.shape[2] % 2):
        height, width = frames.shape[1:3]
        raise InputError(
            f"frames for {where} are {height} by {width} pixels; yuv420p needs an even height and width: "
            "choose an even image size or pix_fmt='yuv444p'"
        )


def open_video(path: str | os.PathLike, threads: int = 1) -> av.container.InputContainer:
    """Opens a video for reading; the first video stream is what the functions here use.

    Raises:
        InputError: The file is missing, is no video, or is cut short (an mp4 without its index).
    """
    if not Path(path).is_file():
        raise InputError(f"video file {path} is missing")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise InputError(
            f"video file {path} cannot be opened (cut short or not a video): {error.strerror or error}"
        ) from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} holds no video stream")
    context = container.streams.video[0].codec_context
    if context is None:
        container.close()
        raise InputError(f"video file {path} is of no kind that can be decoded (damaged?)")
    context.thread_count = threads
    # Damaged pictures are to be errors, not patched ones (measured: it costs nothing); see `_decoded` for the rest.
    context.options = {"err_detect": "explode"}
    return container


def iterate_frames(path: str | os.PathLike, keyframes_only: bool = False) -> Iterator[np.ndarray]:
    """Decodes a file from start to end in one pass; yields uint8 RGB (H, W, 3).

    `keyframes_only` skips all other frames undecoded: a cheap, even subsample.
    """
    for _, image in _decode(path, keyframes_only):
        yield image


def iterate_numbered_frames(
    path: str | os.PathLike, fps: float, sums: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """As `iterate_frames`, each with its number at `fps`, taken from its time and not from counting.

    `sums`: int64 (frames,) checksums that the packets must have, see `packet_sums`.

    Raises:
        InputError: A frame lies between two multiples of 1 / fps, is damaged, or has another checksum.
    """
    for frame, image in _decode(path, fps=fps, sums=sums):
        yield _frame_number(frame, fps, path), image


def _decode(
    path: str | os.PathLike, keyframes_only: bool = False, fps: float = 0.0, sums: np.ndarray | None = None
) -> Iterator[tuple[av.VideoFrame, np.ndarray]]:
    # One reformatter for all frames: `frame.to_ndarray(format=...)` would set up a colour converter for each, which
    # costs three times the decoding at 96 by 96 pixels.
    convert = VideoReformatter()
    with open_video(path) as container:
        stream = container.streams.video[0]
        if keyframes_only:
            stream.codec_context.skip_frame = "NONKEY"
        check = None if sums is None else PacketCheck(path, stream, sums, fps)
        try:
            for frame in _decoded(container, stream, path, check):
                yield frame, to_rgb(convert, frame)
        except av.error.FFmpegError as error:
            raise InputError(f"video file {path} cannot be decoded: {error}") from error


def to_rgb(convert: VideoReformatter, frame: av.VideoFrame) -> np.ndarray:
    """uint8 RGB (H, W, 3). By this thread alone: PyAV would wake one per core for each picture, which takes twice the
    processor's time at these sizes and, where the cores are busy, ten times the wait."""
    return convert.reformat(frame, format="rgb24", threads=1).to_ndarray()


def _decoded(container, stream, path: str | os.PathLike, check: PacketCheck | None) -> Iterator[av.VideoFrame]:
    """The frames from here on. A decoder patches most damaged pictures and only marks them; that is an error here."""
    for packet in container.demux(stream):
        if check is not None:
            check(packet)
        for frame in packet.decode():
            if frame.is_corrupt:
                raise InputError(f"video file {path} has a damaged picture at {frame.time:.4f} s; copy it again")
            yield frame


def _frame_number(frame: av.VideoFrame, fps: float, path: str | os.PathLike) -> int:
    """Which multiple of 1 / fps the frame's time is, from the start of its stream."""
    position = float(frame.pts * frame.time_base) * fps
    number = round(position)
    if abs(position - number) > 0.1:
        raise InputError(
            f"video file {path} has a frame at {frame.time:.4f} s, which is not a multiple of 1/{fps} s; "
            "the fps in meta/info.json does not match the video"
        )
    return number


def decode_video(path: str | os.PathLike) -> np.ndarray:
    """All frames of a file, uint8 RGB (T, H, W, 3)."""
    frames = list(iterate_frames(path))
    if not frames:
        raise InputError(f"video file {path} holds no frames")
    return np.stack(frames)


class VideoJoiner:
    """Appends whole videos to one mp4 by copying their packets: nothing is decoded, nothing loses quality.

    The k-th packet ever appended gets the presentation time k / fps, whatever clock its source used, so frames stay
    exactly where the episode table says. All sources must come from one encoder setting (`fits`).
    """

    def __init__(self, path: str | os.PathLike, fps: float):
        self.path = Path(path)
        self.num_frames = 0
        self.num_bytes = 0
        self._rate = exact_rate(fps)
        self._container = None
        self._stream = None
        self._setting = None
        self.sums: list[int] = []  # of each frame so far; see `packet_sums`

    @staticmethod
    def setting(source: av.container.InputContainer) -> tuple:
        """What must be equal for two videos to share a file: size, pixel format and the decoder's parameter sets."""
        context = source.streams.video[0].codec_context
        return context.name, context.width, context.height, context.pix_fmt, bytes(context.extradata or b"")

    def fits(self, source_path: str | os.PathLike) -> bool:
        """Whether the source can be appended without making earlier or later frames undecodable."""
        with open_video(source_path) as source:
            return self._setting is None or self._setting == self.setting(source)

    def append(self, source_path: str | os.PathLike, num_frames: int) -> int:
        """Copies one video to the end; returns the index in this file of its first frame.

        Raises:
            InputError: The source has another number of frames than `num_frames`, or frames out of order (B-frames).
        """
        first = self.num_frames
        with open_video(source_path) as source:
            if self._container is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._container = av.open(str(self.path), "w")
                template = source.streams.video[0]
                # Opaque: by its parameters alone. PyAV would look for an encoder of the decoder's name, and AV1's
                # decoder (libdav1d) has none. H.264 goes the old way: its files stay the same to the byte.
                opaque = template.codec_context.name != "h264"
                self._stream = self._container.add_stream_from_template(template, opaque=opaque)
                self._stream.time_base = 1 / self._rate
                self._setting = self.setting(source)
            seed = packet_seed(source.streams.video[0])
            previous = None
            for packet in source.demux(source.streams.video[0]):
                if packet.size == 0:  # PyAV ends with an empty packet that only means "flush"
                    continue
                if previous is not None and packet.pts <= previous:
                    raise InputError(f"video file {source_path} has reordered frames (B-frames); encode it with bf=0")
                if previous is None and not packet.is_keyframe:
                    raise InputError(f"video file {source_path} does not start with a key frame")
                previous = packet.pts
                packet.stream = self._stream
                packet.time_base = 1 / self._rate
                packet.pts = packet.dts = self.num_frames
                packet.duration = 1
                self.num_bytes += packet.size
                self.sums.append(packet_sum(packet, seed))
                self.num_frames += 1
                self._container.mux(packet)
        if self.num_frames - first != num_frames:
            raise InputError(
                f"video file {source_path} holds {self.num_frames - first} frames, its episode has {num_frames}; "
                "record the episode again"
            )
        return first

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None


class VideoReader:
    """Random access to the frames of many files, with at most `max_open` of them open at a time.

    Reopening a container for every sample is what makes other readers slow; keeping a thousand open is what makes
    memory grow. Reading on from where the last call stopped does not seek.

    With `grey`, frames are (count, H, W, 1), the brightness as the file holds it: uint8, or uint16 where it has
    more than 8 bits.
    """

    def __init__(self, max_open: int = 8, grey: bool = False):
        self.max_open = max_open
        self.grey = grey
        self._open: OrderedDict[str, _OpenVideo] = OrderedDict()

    def read(
        self, path: str | os.PathLike, first: int, count: int, fps: float, sums: np.ndarray | None = None
    ) -> np.ndarray:
        """Frames `first` to `first + count - 1` of a file of constant rate, uint8 RGB (count, H, W, 3).

        `sums`: int64 (frames of the file,) checksums that its packets must have, see `packet_sums`.

        Raises:
            InputError: The file ends before, a frame is not at the time its index says, is damaged, or has another
                checksum.
        """
        key = str(path)
        video = self._open.pop(key, None) or _OpenVideo(path, fps, self.grey, sums)
        self._open[key] = video
        while len(self._open) > self.max_open:
            self._open.popitem(last=False)[1].container.close()
        try:
            return video.read(first, count, fps)
        except BaseException:  # the decoder's position is unknown now
            self._open.pop(key).container.close()
            raise

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].container.close()


def _grey(frame: av.VideoFrame) -> np.ndarray:
    """The first plane (H, W, 1) as it is: a converter would stretch its range."""
    part = frame.format.components[0]
    if frame.format.is_rgb or part.plane != 0:
        return frame.to_ndarray(format="gray")[..., None]
    dtype = np.dtype(np.uint8 if part.bits <= 8 else ">u2" if frame.format.is_big_endian else "<u2")
    plane = frame.planes[0]
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)
    return rows[: frame.height, : frame.width, None].astype(dtype.newbyteorder("="))


class _OpenVideo:
    def __init__(self, path: str | os.PathLike, fps: float, grey: bool = False, sums: np.ndarray | None = None):
        self.path = path
        self.container = open_video(path)
        self.stream = self.container.streams.video[0]
        self.grey = grey
        self._check = None if sums is None else PacketCheck(path, self.stream, sums, fps)
        self._frames = _decoded(self.container, self.stream, path, self._check)
        self._convert = VideoReformatter()  # see `_decode`
        self._next = 0

    def read(self, first: int, count: int, fps: float) -> np.ndarray:
        # A short way forward is decoded through; a long one, or any way back, is a seek to the key frame before.
        if not self._next <= first <= self._next + 16:
            # A quarter of a frame late: rounding must not land before the frame, or the seek goes a key frame too far.
            offset = int((Fraction(first) + Fraction(1, 4)) / exact_rate(fps) / self.stream.time_base)
            try:
                self.container.seek(offset, stream=self.stream)
            except av.error.FFmpegError as error:  # an index that contradicts itself
                raise InputError(f"video file {self.path} cannot be searched for frame {first}: {error}") from error
            self._frames = _decoded(self.container, self.stream, self.path, self._check)
        output = None
        filled = 0
        try:
            for frame in self._frames:
                index = _frame_number(frame, fps, self.path)
                if index < first:
                    continue
                if index != first + filled:
                    raise InputError(
                        f"video file {self.path}: the frame at {frame.time:.4f} s is number {index} at {fps} fps, "
                        f"expected number {first + filled}; the file and its episode table disagree"
                    )
                image = _grey(frame) if self.grey else to_rgb(self._convert, frame)
                if output is None:
                    output = np.empty((count, *image.shape), image.dtype)
                output[filled] = image
                filled += 1
                self._next = index + 1
                if filled == count:
                    return output
        except av.error.FFmpegError as error:
            raise InputError(
                f"video file {self.path} cannot be decoded near frame {first + filled}: {error}"
            ) from error
        raise InputError(
            f"video file {self.path} ends before frame {first + filled}, frames to {first + count - 1} needed"
        )
