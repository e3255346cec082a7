"""No changed bit of a video becomes a wrong picture in silence."""

import shutil

import av
import numpy as np
import pytest

from hf_vpdd.data.frame_store import FrameStore
from hf_vpdd.data.lerobot import LeRobotDataset
from hf_vpdd.data.packet_sums import SUMS_FILE, check_packets
from hf_vpdd.data.video import decode_video, open_video
from hf_vpdd.errors import InputError

from .conftest import FPS, LENGTHS, make_episodes, write_dataset


KEY = "observation.images.corner2"
VIDEO = f"videos/{KEY}/chunk-000/file-000.mp4"


@pytest.fixture
def root(tmp_path, dataset_root):
    return shutil.copytree(dataset_root, tmp_path / "set")


@pytest.fixture(autouse=True)
def quiet_decoder():
    before = av.logging.get_level()
    av.logging.set_level(av.logging.PANIC)
    yield
    av.logging.set_level(before)


def flip(path, original: bytes, seed: int, part: str) -> None:
    """One bit of the pictures ("mdat") or of the container's tables ("moov") changed."""
    random = np.random.default_rng(seed)
    at = original.index(part.encode()) + 4
    end = at - 8 + int.from_bytes(original[at - 8 : at - 4], "big")
    changed = bytearray(original)
    changed[int(random.integers(at, end))] ^= 1 << int(random.integers(8))
    path.write_bytes(bytes(changed))


def test_a_flipped_bit_is_an_error_or_changes_nothing(root):
    path = root / VIDEO
    original = path.read_bytes()
    good = [LeRobotDataset(root).frames("corner2", episode) for episode in range(len(LENGTHS))]
    refused = {"mdat": 0, "moov": 0}
    for part, seed in [(part, seed) for part in refused for seed in range(25)]:
        flip(path, original, seed, part)
        dataset = LeRobotDataset(root)
        try:
            for episode in (3, 1, 4, 0, 2):
                frames = dataset.frames("corner2", episode)
                assert np.array_equal(frames, good[episode]), (part, seed, episode)
        except InputError as error:
            refused[part] += 1
            assert f"episode {episode}, {KEY}: " in str(error) and "file-000.mp4" in str(error)
    assert refused["mdat"] == 25 and refused["moov"] > 0


def test_the_frame_cache_is_not_made_of_damaged_pictures(root, tmp_path):
    original = (root / VIDEO).read_bytes()
    good = FrameStore.build(root, "corner2", 48, tmp_path / "good", progress=False).frames[:]
    for seed in range(6):
        flip(root / VIDEO, original, seed, "mdat")
        with pytest.raises(InputError, match=f"episode [0-4], {KEY}: .*file-000.mp4"):
            FrameStore.build(root, "corner2", 48, tmp_path / "cache", progress=False)
        assert not list((tmp_path / "cache").iterdir())
    (root / VIDEO).write_bytes(original)
    assert np.array_equal(FrameStore.build(root, "corner2", 48, tmp_path / "cache", progress=False).frames[:], good)


def test_without_checksums_the_decoder_stops_where_it_would_patch(root):
    """Datasets of others. What is left are changes that decode to a picture without any doubt."""
    (root / "meta" / SUMS_FILE).unlink()
    path, original = root / VIDEO, (root / VIDEO).read_bytes()
    refused = 0
    for seed in range(25):
        flip(path, original, seed, "mdat")
        try:
            decode_video(path)
        except InputError as error:
            assert "file-000.mp4" in str(error)
            refused += 1
    assert refused >= 12


def test_the_decoders_parameters_are_part_of_every_checksum(root):
    """A changed parameter set (colours, size) leaves all packets as they are."""
    path, data = root / VIDEO, bytearray((root / VIDEO).read_bytes())
    with open_video(path) as container:
        extra = bytes(container.streams.video[0].codec_context.extradata)
    sums = LeRobotDataset(root).packet_sums(KEY, 0)
    check_packets(path, FPS, sums)
    at = bytes(data).index(extra)
    data[at + len(extra) - 1] ^= 1  # the last byte of the picture parameter set
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="frame 0 does not have its checksum"):
        check_packets(path, FPS, sums)


def test_checksums_of_several_files_and_cameras(tmp_path):
    episodes = make_episodes(cameras=("a", "b"))
    root = write_dataset(tmp_path / "set", episodes, video_file_mb=1e-3)
    dataset = LeRobotDataset(root)
    for camera in ("a", "b"):
        key = dataset.camera_key(camera)
        paths = dataset.episodes.video_files[key]
        assert len(paths) > 1
        for number, path in enumerate(paths):
            sums = dataset.packet_sums(key, number)
            check_packets(path, FPS, sums)
            assert (sums >= 0).all()
            with pytest.raises(InputError, match="checksum"):
                check_packets(path, FPS, sums ^ 1)
    # a file in another's place: every picture decodes
    first, second = dataset.episodes.video_files[dataset.camera_key("a")][:2]
    shutil.copy(dataset.episodes.video_files[dataset.camera_key("b")][0], first)
    with pytest.raises(InputError, match="episode 0, observation.images.a: .*checksum"):
        LeRobotDataset(root).frames("a", 0)
    LeRobotDataset(root).frames("a", 1)


def test_a_table_of_another_dataset_is_refused(root, tmp_path):
    other = write_dataset(tmp_path / "other", make_episodes((3,)))
    shutil.copy(other / "meta" / SUMS_FILE, root / "meta" / SUMS_FILE)
    with pytest.raises(InputError, match=f"{SUMS_FILE} has 3 rows, the dataset 83 frames; remove that file"):
        LeRobotDataset(root).frames("corner2", 0)
    (root / "meta" / SUMS_FILE).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=f"{SUMS_FILE} cannot be read"):
        LeRobotDataset(root).frames("corner2", 0)
