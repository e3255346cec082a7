"""LeRobot datasets beyond the plain case: depth, pictures in rows, the Hub, streaming, the choice of decoder."""

import io
import json
import os
import shutil
import subprocess
import sys

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_vpdd.data import open_dataset, video_backends
from hf_vpdd.data.lerobot import LeRobotDataset
from hf_vpdd.data.video_backends import TorchcodecReader, describe_backend, resolve_backend
from hf_vpdd.errors import InputError
from tests.fakehub import FakeHub

from .conftest import FPS, make_episodes, read_numbers, write_dataset
from .video_files import write_video


KEY = "observation.images.corner2"
ROWS = "data/chunk-000/file-000.parquet"


def _png(image: np.ndarray) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def add_pictures(root, key: str, cells: list, shape: list, **about):
    """Adds a feature of dtype "image" to the rows, in groups of 10 rows."""
    type_ = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pq.read_table(root / ROWS).append_column(key, pa.array(cells, type_))
    pq.write_table(table, root / ROWS, row_group_size=10)
    info = json.loads((root / "meta/info.json").read_text())
    names = ["height", "width", "channels"]
    info["features"][key] = {"dtype": "image", "shape": shape, "names": names} | about
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def pictures_in_rows(root, episodes, broken: int | None = None):
    """The dataset with its pictures in the rows instead of videos; the picture of row `broken` is no picture."""
    cells = [_png(image) for image in np.concatenate([episode[KEY] for episode in episodes])]
    if broken is not None:
        cells[broken]["bytes"] = cells[broken]["bytes"][:60]
    shutil.rmtree(root / "videos")
    return add_pictures(root, KEY, cells, [48, 48, 3])


def test_a_window_of_pictures_reads_only_its_rows(tmp_path, dataset_root, episodes, monkeypatch):
    root = pictures_in_rows(shutil.copytree(dataset_root, tmp_path / "set"), episodes, broken=80)
    dataset, read = LeRobotDataset(root), []
    whole = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_groups", lambda self, groups, **k: (read.extend(groups), whole(self, groups, **k))[1]
    )
    assert (dataset.frames("corner2", 3, 7, 4) == episodes[3][KEY][7:11]).all() and read == [3, 4]
    assert KEY not in dataset.episode(3, images=False)
    with pytest.raises(InputError, match=f"{KEY} in episode 4 cannot be read"):
        dataset.episode(4)


def test_depth_keeps_its_numbers_and_is_no_camera(tmp_path, dataset_root):
    root = shutil.copytree(dataset_root, tmp_path / "set")
    depth = np.arange(83, dtype=np.uint16)[:, None, None] * 700 + np.arange(64, dtype=np.uint16).reshape(8, 8)
    add_pictures(root, "observation.images.depth", [_png(image) for image in depth], [8, 8, 1])
    dataset = LeRobotDataset(root)
    assert dataset.cameras == ["corner2"] and dataset.depth_keys == ["observation.images.depth"]
    frames = dataset.frames("depth", 3, 5, 3)
    assert frames.dtype == np.uint16 and (frames[..., 0] == depth[36:39]).all()
    episode = dataset.episode(2)
    assert episode["observation.images.depth"].shape == (1, 8, 8, 1) and episode[KEY].shape == (1, 48, 48, 3)


def test_depth_as_video_of_more_than_8_bits(tmp_path):
    """Grey of 10 bits in a lossless codec, as depth recorders write it."""
    root = write_dataset(tmp_path / "set", make_episodes((6,)))
    path = next((root / "videos").rglob("*.mp4"))
    grey = (np.arange(6)[:, None, None] * 100 + np.arange(48)[None, :, None] + np.zeros((6, 48, 48))).astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = 48
        stream.pix_fmt, stream.options = "gray10le", {"qp": "0", "bf": "0"}
        for image in grey:
            frame = av.VideoFrame(48, 48, "gray10le")
            rows = np.zeros((frame.planes[0].buffer_size // frame.planes[0].line_size, frame.planes[0].line_size // 2))
            rows[:48, :48] = image
            frame.planes[0].update(rows.astype("<u2").tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][KEY]["info"]["is_depth_map"] = True
    (root / "meta/info.json").write_text(json.dumps(info))
    dataset = LeRobotDataset(root)
    frames = dataset.frames("corner2", 0)
    assert dataset.cameras == [] and frames.dtype == np.uint16 and frames.shape == (6, 48, 48, 1)
    assert np.abs(frames[..., 0].astype(int) - grey).max() <= 2


@pytest.mark.parametrize(
    "entry, value",
    [("fps", 0), ("fps", "20"), ("fps", True), ("features", []), ("features", {"action": 3}),
     ("video_path", None), ("video_path", "/etc/passwd"), ("video_path", "../x/{file_index}"), ("data_path", 4)],
)  # fmt: skip
def test_entries_of_the_wrong_type_are_named(tmp_path, dataset_root, entry, value):
    root = shutil.copytree(dataset_root, tmp_path / "set")
    info = json.loads((root / "meta/info.json").read_text()) | {entry: value}
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=f"info.json.*{entry}"):
        LeRobotDataset(root)


STREAM = """
import sys
mode, sys.argv[0] = sys.argv[1], "hf-vpdd"  # as the command line: without loading torch
from hf_vpdd.data import LeRobotDataset, open_dataset
if mode == "whole":
    dataset = LeRobotDataset("me/arm")
else:
    dataset = open_dataset("me/arm", streaming=True, video_backend="pyav", revision="main")
    assert dataset.video_backend == "pyav"
print(sorted({p.name for p in dataset.root.iterdir()}), dataset.num_frames)
print(dataset.episode(3, images=False)["action"].shape, sorted(p.name for p in dataset.root.iterdir()))
print(dataset.frames("corner2", 4).shape, sorted(p.name for p in dataset.root.iterdir()), len(dataset.fingerprint))
"""


@pytest.mark.parametrize("mode", ["streaming", "whole"])
def test_from_the_hub(tmp_path, dataset_root, mode):
    with FakeHub() as hub:
        files = [
            ("file", path.relative_to(dataset_root).as_posix(), path.read_bytes())
            for path in sorted(dataset_root.rglob("*"))
            if path.is_file() and ".cache" not in path.parts
        ]
        hub.hub.commit("dataset", "me/arm", files)
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip
        child = subprocess.run(
            [sys.executable, "-c", STREAM, mode], env=environment, capture_output=True, text=True, timeout=200
        )
    assert child.returncode == 0, child.stderr
    first, second, third = child.stdout.splitlines()
    everything = "['data', 'meta', 'videos']"
    assert first == ("['meta'] 83" if mode == "streaming" else f"{everything} 83")
    assert second == "(40, 2) " + ("['data', 'meta']" if mode == "streaming" else everything)
    assert third == f"(12, 48, 48, 3) {everything} 64"


def test_the_one_door_passes_the_choices_on(dataset_root, tmp_path, monkeypatch):
    monkeypatch.setenv(video_backends.VARIABLE, "pyav")
    assert open_dataset(dataset_root, streaming=True, video_backend="pyav").video_backend == "pyav"
    with pytest.raises(InputError, match="'opencv' is none of auto, pyav, torchcodec"):
        open_dataset(tmp_path, video_backend="opencv")
    with pytest.raises(InputError, match="revision is of LeRobot datasets on the Hub"):
        open_dataset(dataset_root, revision="main")
    with pytest.raises(InputError, match="hf_vpdd.data.VideoStream"):
        open_dataset("datasets:me/videos", streaming=True)
    write_video(tmp_path / "clips" / "a.mp4", np.arange(4) / 10)
    assert open_dataset(tmp_path / "clips", progress=False, streaming=True).num_episodes == 1
    monkeypatch.setattr(video_backends, "_torchcodec_problem", lambda: None)  # as if it were installed
    with pytest.raises(InputError, match="leave video_backend at auto"):
        open_dataset(tmp_path / "clips", progress=False, video_backend="torchcodec")


def test_the_choice_of_decoder(dataset_root, monkeypatch):
    monkeypatch.delenv(video_backends.VARIABLE, raising=False)
    assert resolve_backend("pyav") == "pyav" and describe_backend("pyav") == f"PyAV {av.__version__}"
    with pytest.raises(InputError, match="none of auto, pyav, torchcodec"):
        LeRobotDataset(dataset_root, video_backend="opencv")
    monkeypatch.setenv(video_backends.VARIABLE, "pyav")
    assert LeRobotDataset(dataset_root).video_backend == "pyav"
    monkeypatch.setenv(video_backends.VARIABLE, "ffmpeg")
    with pytest.raises(InputError, match="'ffmpeg'"):
        LeRobotDataset(dataset_root)
    # Installed but not loadable is not silent.
    monkeypatch.delenv(video_backends.VARIABLE)
    monkeypatch.setattr(video_backends.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(video_backends, "_torchcodec_problem", lambda: "no libavcodec")
    with pytest.warns(UserWarning, match="no libavcodec.*PyAV"):
        assert resolve_backend() == "pyav"
    with pytest.raises(InputError, match="no libavcodec; use pyav"):
        resolve_backend("torchcodec")


@pytest.mark.skipif(bool(video_backends._torchcodec_problem()), reason="torchcodec is not installed")
def test_torchcodec_gives_the_same_frames(dataset_root, tmp_path):
    one, other = (LeRobotDataset(dataset_root, video_backend=name) for name in ("pyav", "torchcodec"))
    for episode, first, count in ((3, 10, 8), (0, 0, 7), (4, 11, 1), (1, 20, 3)):
        a, b = one.frames("corner2", episode, first, count), other.frames("corner2", episode, first, count)
        assert a.shape == b.shape and b.dtype == np.uint8 and np.abs(a.astype(int) - b).max() <= 3
        assert (read_numbers(a) == read_numbers(b)).all()
    path = one.episodes.video_files[KEY][0]
    reader = TorchcodecReader(max_open=1)
    for place, first, fps, message in (
        (path, 80, FPS, "83 frames"),
        (path, 5, 33, "fps"),
        ("x.mp4", 0, FPS, "missing"),
    ):
        with pytest.raises(InputError, match=message):
            reader.read(place, first, 9, fps)
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be opened"):
        reader.read(tmp_path / "cut.mp4", 0, 1, FPS)
    assert len(reader._open) <= 1
