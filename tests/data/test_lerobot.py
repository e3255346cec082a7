import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_vpdd.data import lerobot
from hf_vpdd.data.lerobot import LeRobotDataset, dataset_fingerprint
from hf_vpdd.data.lerobot_writer import encode_video
from hf_vpdd.errors import InputError

from .conftest import FPS, make_episodes, read_numbers, task_of


def write_v21(root, episodes):
    """The layout of format 2.1: a parquet and an mp4 per episode, tables as JSON lines. Lists of variable length."""
    key = "observation.images.corner2"
    lines = {"episodes": [], "episodes_stats": []}
    first = 0
    for number, episode in enumerate(episodes):
        length = len(episode["action"])
        columns = {
            "action": pa.array(episode["action"].tolist(), pa.list_(pa.float32())),
            "observation.state": pa.array(episode["observation.state"].tolist(), pa.list_(pa.float32())),
            "timestamp": pa.array(np.arange(length, dtype=np.float32) / FPS),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": np.arange(first, first + length),
            "task_index": np.full(length, number % 2),
        }
        path = root / f"data/chunk-{number // 2:03d}/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        encode_video(root / f"videos/chunk-{number // 2:03d}/{key}/episode_{number:06d}.mp4", episode[key], FPS)
        lines["episodes"].append({"episode_index": number, "tasks": [task_of(number)], "length": length})
        action = episode["action"].astype(float)
        stats = {name: getattr(action, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
        lines["episodes_stats"].append({"episode_index": number, "stats": {"action": stats | {"count": [length]}}})
        first += length
    lines["tasks"] = [{"task_index": i, "task": task_of(i)} for i in range(2)]
    features = {key: {"dtype": "video", "shape": [48, 48, 3], "names": ["height", "width", "channels"]}}
    features |= {"action": {"dtype": "float32", "shape": [2]}, "observation.state": {"dtype": "float32", "shape": [3]}}
    features |= {"timestamp": {"dtype": "float32", "shape": [1]}, "episode_index": {"dtype": "int64", "shape": [1]}}
    info = {
        "codebase_version": "v2.1", "robot_type": "arm", "fps": FPS, "features": features, "chunks_size": 2,
        "total_episodes": len(episodes), "total_frames": first, "total_tasks": 2,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info))
    for name, rows in lines.items():
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_version_2_1_reads_like_3_0(tmp_path, dataset_root, episodes):
    old, new = LeRobotDataset(write_v21(tmp_path, episodes)), LeRobotDataset(dataset_root)
    assert old.version == "v2.1" and old.tasks == new.tasks and old.cameras == new.cameras
    assert old.num_frames == new.num_frames and (old.episodes.length == new.episodes.length).all()
    for number in range(len(episodes)):
        a, b = old.episode(number), new.episode(number)
        assert a["task"] == b["task"]
        for key in ("action", "observation.state", "timestamp", "observation.images.corner2"):
            assert a[key].dtype == b[key].dtype and (a[key] == b[key]).all(), key
    for name, values in old.columns(["action", "observation.state"]).items():
        assert (values == new.columns([name])[name]).all()
    for name in ("mean", "std", "min", "max", "count"):
        assert np.allclose(old.stats["action"][name], new.stats["action"][name]), name


def test_parts_of_an_episode(dataset_root):
    dataset = LeRobotDataset(dataset_root)
    assert read_numbers(dataset.frames("observation.images.corner2", 3, 10, 4)).tolist() == [42, 43, 44, 45]
    assert read_numbers(dataset.frames("corner2", 4, 11)).tolist() == [83]
    assert "observation.images.corner2" not in dataset.episode(1, images=False)
    for first, count in ((-1, 2), (38, 3), (3, 0)):
        with pytest.raises(InputError, match="which has 40"):
            dataset.frames("corner2", 3, first, count)
    with pytest.raises(InputError, match="episodes 0 to 4"):
        dataset.episode(5)


def test_images_in_the_table_instead_of_videos(tmp_path, dataset_root, episodes):
    """dtype "image": encoded pictures in the parquet file, as `datasets` stores them."""
    root = shutil.copytree(dataset_root, tmp_path / "set")
    key = "observation.images.corner2"
    path = root / "data/chunk-000/file-000.parquet"
    cells = []
    for image in np.concatenate([episode[key] for episode in episodes]):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    type_ = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pq.read_table(path).append_column(key, pa.array(cells, type_)), path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][key]["dtype"] = "image"
    (root / "meta/info.json").write_text(json.dumps(info))
    shutil.rmtree(root / "videos")
    dataset = LeRobotDataset(root)
    assert (dataset.episode(3)[key] == episodes[3][key]).all()
    assert (dataset.frames("corner2", 1, 20, 2) == episodes[1][key][20:22]).all()


def _unlink(name):
    return lambda root: (root / name).unlink()


def _cut(name):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-200])


def _noise(name):
    """Random bytes in the middle of the pictures."""

    def breaking(root):
        data = bytearray((root / name).read_bytes())
        first = len(data) // 3
        data[first : first + 400] = np.random.default_rng(0).integers(0, 256, 400, np.uint8).tobytes()
        (root / name).write_bytes(data)

    return breaking


def _info(**entries):
    def change(root):
        path = root / "meta/info.json"
        info = json.loads(path.read_text()) | entries
        path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))

    return change


BROKEN = {
    "no info": (_unlink("meta/info.json"), "half-written recording.*hf-vpdd record"),
    "no video": (_unlink("videos/observation.images.corner2/chunk-000/file-000.mp4"), "lacks 1 .*000.mp4.*record"),
    "no rows": (_unlink("data/chunk-000/file-000.parquet"), "lacks 1 .*data/chunk-000/file-000.parquet"),
    "no tasks": (_unlink("meta/tasks.parquet"), "tasks.parquet is missing"),
    "no episode table": (_unlink("meta/episodes/chunk-000/file-000.parquet"), "lacks meta/episodes"),
    "cut rows": (_cut("data/chunk-000/file-000.parquet"), "file-000.parquet cannot be read"),
    "cut video": (_cut("videos/observation.images.corner2/chunk-000/file-000.mp4"), "file-000.mp4"),
    "noise in the video": (
        _noise("videos/observation.images.corner2/chunk-000/file-000.mp4"),
        "file-000.mp4 cannot be",
    ),
    "cut info": (_cut("meta/info.json"), "info.json is not valid JSON"),
    "no stats": (_unlink("meta/stats.json"), "has no statistics"),
    "unknown version": (_info(codebase_version="v4.2"), "format 'v4.2'"),
    "no fps": (_info(fps=None), "no entry 'fps'"),
    "wrong fps": (_info(fps=33), "33"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_datasets_are_named(tmp_path, dataset_root, name):
    breaking, message = BROKEN[name]
    root = shutil.copytree(dataset_root, tmp_path / "set")
    breaking(root)
    with pytest.raises(InputError, match=message):
        dataset = LeRobotDataset(root)
        for number in range(dataset.num_episodes):
            dataset.episode(number)
        dataset.stats


def test_what_is_not_there_is_named(tmp_path, dataset_root):
    with pytest.raises(InputError, match="does not exist"):
        LeRobotDataset(tmp_path / "nothing")
    with pytest.raises(InputError, match="not a LeRobot dataset"):
        LeRobotDataset(tmp_path)
    with pytest.raises(InputError, match="neither a folder here nor a dataset"):  # the suite runs offline
        LeRobotDataset("nobody/nothing")
    dataset = LeRobotDataset(dataset_root)
    with pytest.raises(InputError, match=r"no camera 'front'; its cameras are \['corner2'\]"):
        dataset.frames("front", 0)
    with pytest.raises(InputError, match="no feature"):
        dataset.columns(["effort"])


def test_a_table_that_contradicts_the_rows_is_refused(tmp_path, dataset_root):
    root = shutil.copytree(dataset_root, tmp_path / "set")
    path = root / "data/chunk-000/file-000.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.slice(0, 80), path)
    with pytest.raises(InputError, match="80 rows, the episode table 83"):
        LeRobotDataset(root).columns(["action"])
    with pytest.raises(InputError, match="ends inside episode 4"):
        LeRobotDataset(root).episode(4)
    pq.write_table(pa.concat_tables([rows.slice(1), rows.slice(0, 1)]), path)
    with pytest.raises(InputError, match="row 6 of the data belongs to episode 1"):
        LeRobotDataset(root).columns(["action"])


def test_fingerprint_follows_the_data_and_nothing_else(tmp_path, dataset_root):
    root = shutil.copytree(dataset_root, tmp_path / "set")
    first = dataset_fingerprint(root)
    assert first == dataset_fingerprint(dataset_root) and len(first) == 64
    (root / ".cache").mkdir()
    (root / ".cache/x").write_text("cache")
    assert dataset_fingerprint(root) == first
    with open(root / "videos/observation.images.corner2/chunk-000/file-000.mp4", "ab") as file:
        file.write(b"0")
    second = dataset_fingerprint(root)
    _info(robot_type="other")(root)
    assert len({first, second, dataset_fingerprint(root)}) == 3


def test_opening_reads_the_tables_and_no_episode(tmp_path, monkeypatch):
    """The cost of opening grows with the table only: 600 episodes in one video are not 600 files."""
    from hf_vpdd.data.lerobot_writer import LeRobotWriter

    frames = make_episodes((2,), size=16)[0]["observation.images.corner2"]
    video = encode_video(tmp_path / "two.mp4", frames, FPS)
    with LeRobotWriter(tmp_path / "set", FPS) as writer:
        for number in range(600):
            writer.add_encoded_episode({"corner2": video}, {"action": np.zeros((2, 2))}, f"task {number % 7}")
    opened, read = [], lerobot.read_parquet
    monkeypatch.setattr(lerobot, "read_parquet", lambda path, *rest: (opened.append(path.name), read(path, *rest))[1])
    dataset = LeRobotDataset(tmp_path / "set")
    assert sorted(opened) == ["file-000.parquet", "tasks.parquet"] and not dataset._videos._open
    assert dataset.num_episodes == 600 and len(dataset.tasks) == 7
    assert read_numbers(dataset.frames("corner2", 599)).tolist() == [1, 2]
