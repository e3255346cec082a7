import av
import numpy as np
import pytest

from hf_vpdd.data import LeRobotDataset, LeRobotWriter
from hf_vpdd.data.video import VideoJoiner, VideoReader, decode_video, encode_video, iterate_numbered_frames
from hf_vpdd.errors import InputError

from .conftest import numbered_frames, read_numbers


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_what_goes_in_comes_out(tmp_path, pix_fmt):
    frames = numbered_frames(range(25))
    encode_video(tmp_path / "a.mp4", frames, 30, pix_fmt=pix_fmt)
    decoded = decode_video(tmp_path / "a.mp4")
    assert decoded.shape == frames.shape and decoded.dtype == np.uint8
    assert psnr(decoded, frames) > 30
    assert min(psnr(a, b) for a, b in zip(decoded, frames)) > 30
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_full_colour_resolution_keeps_small_coloured_things(tmp_path):
    """What yuv444p is for: single red pixels on grey, which yuv420p smears."""
    frames = np.full((3, 32, 32, 3), 128, np.uint8)
    frames[:, 5::8, 5::8] = (255, 0, 0)
    errors = {}
    for pix_fmt in ("yuv420p", "yuv444p"):
        encode_video(tmp_path / f"{pix_fmt}.mp4", frames, 30, pix_fmt=pix_fmt, crf=1)
        decoded = decode_video(tmp_path / f"{pix_fmt}.mp4").astype(int)
        errors[pix_fmt] = np.abs(decoded - frames)[:, 5::8, 5::8].mean()
    assert errors["yuv444p"] < 5 < errors["yuv420p"]


def test_bytes_do_not_depend_on_when(tmp_path):
    frames = numbered_frames(range(9))
    first = encode_video(tmp_path / "a.mp4", frames, 80).read_bytes()
    assert encode_video(tmp_path / "b.mp4", frames, 80).read_bytes() == first


@pytest.mark.parametrize("fps", [80, 30, 29.97, 12.5])
def test_joined_videos_keep_every_frame_in_place(tmp_path, fps):
    joiner = VideoJoiner(tmp_path / "all.mp4", fps)
    lengths = [11, 1, 2, 30]
    starts, first = [], 0
    for number, length in enumerate(lengths):
        path = encode_video(tmp_path / f"{number}.mp4", numbered_frames(np.arange(first, first + length)), fps)
        assert joiner.fits(path)
        starts.append(joiner.append(path, length))
        first += length
    joiner.close()
    assert starts == [0, 11, 12, 14]
    numbers, images = zip(*iterate_numbered_frames(tmp_path / "all.mp4", fps))
    assert list(numbers) == list(range(44))
    assert read_numbers(np.stack(images)).tolist() == list(range(44))
    apart = np.concatenate([decode_video(tmp_path / f"{n}.mp4") for n in range(4)])
    assert (np.stack(images) == apart).all()  # copied, not encoded again


@pytest.mark.parametrize("encoder, codec", [("libsvtav1", "av1"), ("libvpx-vp9", "vp9")])
def test_videos_of_other_codecs_are_joined(tmp_path, encoder, codec):
    """LeRobot's own recorder makes AV1, for which PyAV has a decoder without an encoder of its name."""
    grey = np.arange(0, 200, 20, dtype=np.uint8)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream(encoder, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.options = 80, 64, "yuv420p", {"crf": "20", "g": "2"}
        for number, value in enumerate(grey):
            frame = av.VideoFrame.from_ndarray(np.full((64, 80, 3), value, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with LeRobotWriter(tmp_path / "set", 10) as writer:
        for _ in range(2):
            writer.add_encoded_episode({"observation.images.a": tmp_path / "a.mp4"}, {"x": np.arange(10)}, "watch")
    dataset = LeRobotDataset(tmp_path / "set")
    assert dataset.features["observation.images.a"]["info"]["video.codec"] == codec
    for episode in range(2):
        levels = dataset.frames("a", episode).mean(axis=(1, 2, 3))
        assert np.abs(levels - grey).max() < 4


def test_random_access_gives_the_frames_asked_for(tmp_path):
    paths = []
    for number in range(4):
        numbers = np.arange(60) + 100 * number
        paths.append(encode_video(tmp_path / f"{number}.mp4", numbered_frames(numbers, 32), 25))
    reader = VideoReader(max_open=2)
    generator = np.random.default_rng(0)
    for _ in range(120):
        number, first, count = generator.integers(4), generator.integers(0, 52), generator.integers(1, 9)
        frames = reader.read(paths[number], first, count, 25)
        assert read_numbers(frames).tolist() == list(range(100 * number + first, 100 * number + first + count))
        assert len(reader._open) <= 2
    reader.close()


def test_videos_of_other_settings_do_not_fit(tmp_path):
    joiner = VideoJoiner(tmp_path / "all.mp4", 25)
    joiner.append(encode_video(tmp_path / "a.mp4", numbered_frames(range(3), 32), 25), 3)
    assert not joiner.fits(encode_video(tmp_path / "b.mp4", numbered_frames(range(3), 48), 25))
    assert not joiner.fits(encode_video(tmp_path / "c.mp4", numbered_frames(range(3), 32), 25, pix_fmt="yuv444p"))
    joiner.close()


def test_bad_input_is_named(tmp_path):
    good = numbered_frames(range(8), 32)
    with pytest.raises(InputError, match="even height and width"):
        encode_video(tmp_path / "a.mp4", good[:, :31], 25)
    with pytest.raises(InputError, match="float64"):
        encode_video(tmp_path / "a.mp4", good / 255.0, 25)
    with pytest.raises(InputError, match="codec 'vp9'"):
        encode_video(tmp_path / "a.mp4", good, 25, codec="vp9")
    with pytest.raises(InputError, match="fps is 0"):
        encode_video(tmp_path / "a.mp4", good, 0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="missing"):
        decode_video(tmp_path / "nothing.mp4")
    (tmp_path / "text.mp4").write_text("not a video at all")
    with pytest.raises(InputError, match="text.mp4"):
        decode_video(tmp_path / "text.mp4")
    path = encode_video(tmp_path / "a.mp4", good, 25)
    with pytest.raises(InputError, match="ends before frame 8"):
        VideoReader().read(path, 5, 4, 25)
    with pytest.raises(InputError, match="not a multiple of 1/24"):
        VideoReader().read(path, 5, 2, 24)
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cut.mp4"):
        decode_video(tmp_path / "cut.mp4")
