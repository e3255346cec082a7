"""Folders as LeRobot itself lays them out, written here with pandas, pyarrow and PyAV alone, and what ours are like.

v3.0: several episodes in a file and several files, AV1 with a key frame every second picture, statistics of episodes
as columns, Hugging Face's description of the features in the schema. v2.1: chunks, pictures and depth in the rows.
"""

import io
import json
import os

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_vpdd.data import LeRobotDataset, check_dataset, open_dataset

from .conftest import FPS, LENGTHS, numbered_frames, read_numbers, task_of


CAMERAS = ("observation.images.top", "observation.images.wrist")
# Episodes of each file: data in three files of two chunks, the videos of each camera cut at other places.
DATA = [(0, 1), (2, 3), (4,)]
VIDEOS = {CAMERAS[0]: [(0, 1, 2, 3), (4,)], CAMERAS[1]: [(0,), (1, 2), (3, 4)]}
PLACES = [(0, 0), (0, 1), (1, 0)]  # (chunk, file)
INDEX = {"frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}


def encode_av1(path, frames):
    os.environ["SVT_LOG"] = "1"  # errors alone
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {
            "g": "2",
            "crf": "18",
            "preset": "10",
        }  # LeRobot: 30 and 12; here the numbers must stay legible
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def rows_of(number, length, start, **more):
    step = np.arange(length)
    return pd.DataFrame(
        {
            **{key: list(value) for key, value in more.items()},
            "timestamp": (step / FPS).astype(np.float32),
            "frame_index": step,
            "episode_index": np.full(length, number),
            "index": start + step,
            "task_index": np.full(length, number % 2),
        }
    )


@pytest.fixture(scope="module")
def numbers():
    """(states, actions) of each episode."""
    generator = np.random.default_rng(3)
    return [
        (generator.normal(size=(n, 3)).astype(np.float32), generator.uniform(-1, 1, (n, 2)).astype(np.float32))
        for n in LENGTHS
    ]


def frames_of(camera, number):
    first = sum(LENGTHS[:number]) + 1 + 1000 * CAMERAS.index(camera)
    return numbered_frames(np.arange(first, first + LENGTHS[number]), 64)


@pytest.fixture(scope="module")
def version_3(numbers, tmp_path_factory):
    root = tmp_path_factory.mktemp("reference") / "arm"
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this build of PyAV has no AV1 encoder")
    vector = {"names": None, "dtype": "float32"}
    features = {camera: {"dtype": "video", "shape": [64, 64, 3], "names": ["height", "width", "channels"], "info": {
        "video.height": 64, "video.width": 64, "video.codec": "av1", "video.pix_fmt": "yuv420p", "video.fps": FPS,
        "video.is_depth_map": False, "video.channels": 3, "has_audio": False}} for camera in CAMERAS}  # fmt: skip
    features |= {"observation.state": {**vector, "shape": [3]}, "action": {**vector, "shape": [2]}}
    features |= {"timestamp": {**vector, "shape": [1]}}
    features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in INDEX.items()}
    info = {
        "codebase_version": "v3.0", "robot_type": "arm", "total_episodes": 5, "total_frames": sum(LENGTHS),
        "total_tasks": 2, "chunks_size": 2, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": FPS,
        "splits": {"train": "0:5"}, "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    tasks = pd.DataFrame({"task_index": [0, 1]}, index=pd.Index([task_of(0), task_of(1)], name="task"))
    tasks.to_parquet(root / "meta/tasks.parquet")
    starts = np.cumsum(LENGTHS) - LENGTHS
    table = [
        {"episode_index": e, "tasks": [task_of(e)], "length": LENGTHS[e], "dataset_from_index": starts[e],
         "dataset_to_index": starts[e] + LENGTHS[e], "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        for e in range(5)
    ]  # fmt: skip
    for (chunk, file), episodes in zip(PLACES, DATA):
        path = root / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pieces = []
        for e in episodes:
            table[e] |= {"data/chunk_index": chunk, "data/file_index": file}
            state, action = numbers[e]
            pieces.append(rows_of(e, LENGTHS[e], starts[e], **{"observation.state": state, "action": action}))
            for name in ("min", "max", "mean", "std"):
                table[e][f"stats/action/{name}"] = getattr(action, name)(axis=0).tolist()
            table[e]["stats/action/count"] = [LENGTHS[e]]
        schema = pa.schema(
            [("observation.state", pa.list_(pa.float32(), 3)), ("action", pa.list_(pa.float32(), 2)),
             ("timestamp", pa.float32()), *((name, pa.int64()) for name in INDEX)],
            metadata={"huggingface": json.dumps({"info": {"features": {"index": {"dtype": "int64"}}}})},
        )  # fmt: skip
        pq.write_table(pa.Table.from_pandas(pd.concat(pieces), schema, preserve_index=False), path)
    for camera, files in VIDEOS.items():
        for (chunk, file), episodes in zip(PLACES, files):
            path = root / f"videos/{camera}/chunk-{chunk:03d}/file-{file:03d}.mp4"
            encode_av1(path, np.concatenate([frames_of(camera, e) for e in episodes]))
            first = 0
            for e in episodes:
                table[e] |= {f"videos/{camera}/chunk_index": chunk, f"videos/{camera}/file_index": file}
                table[e] |= {f"videos/{camera}/from_timestamp": first / FPS}
                first += LENGTHS[e]
                table[e] |= {f"videos/{camera}/to_timestamp": first / FPS}
    pd.DataFrame(table).to_parquet(root / "meta/episodes/chunk-000/file-000.parquet", index=False)
    action = np.concatenate([action for _, action in numbers]).astype(np.float64)
    stats = {name: getattr(action, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    stats |= {f"q{q:02d}": np.quantile(action, q / 100, axis=0).tolist() for q in (1, 10, 50, 90, 99)}
    (root / "meta/stats.json").write_text(json.dumps({"action": stats | {"count": [len(action)]}}))
    return root


def test_version_3_loads_to_the_last_number(version_3, numbers):
    dataset = open_dataset(version_3)
    assert dataset.version == "v3.0" and dataset.cameras == ["top", "wrist"] and dataset.num_frames == sum(LENGTHS)
    for e, (state, action) in enumerate(numbers):
        episode = dataset.episode(e)
        assert episode["task"] == task_of(e) and (episode["task_index"] == e % 2).all()
        assert (episode["observation.state"] == state).all() and (episode["action"] == action).all()
        assert (episode["timestamp"] == (np.arange(LENGTHS[e]) / FPS).astype(np.float32)).all()
        for camera in CAMERAS:
            expected = frames_of(camera, e)
            assert (read_numbers(episode[camera]) == read_numbers(expected)).all()
            assert np.abs(episode[camera].astype(int) - expected).mean() < 6  # hard edges
    assert read_numbers(dataset.frames("wrist", 3, 11, 2)).tolist() == [1000 + 31 + 12, 1000 + 31 + 13]
    assert dataset.stats["action"]["count"].tolist() == [sum(LENGTHS)]
    assert np.concatenate([action for _, action in numbers]).tolist() == dataset.columns(["action"])["action"].tolist()


def test_version_3_has_nothing_wrong_with_it(version_3):
    found = check_dataset(version_3, progress=False, workers=1).findings
    # The file has statistics of actions alone, which is all that a policy reads.
    assert {finding.kind for finding in found.sorted()} <= {"stats"}, found.sorted()


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def test_version_2_1_with_pictures_and_depth_in_the_rows_of_several_chunks(numbers, tmp_path):
    root, starts = tmp_path / "old", np.cumsum(LENGTHS) - LENGTHS
    (root / "meta").mkdir(parents=True)
    depth = [np.arange(n * 64, dtype=np.uint16).reshape(n, 8, 8) * 17 for n in LENGTHS]
    for e, (state, action) in enumerate(numbers):
        rows = rows_of(e, LENGTHS[e], starts[e], **{"observation.state": state, "action": action})
        rows[CAMERAS[0]] = [png(image) for image in frames_of(CAMERAS[0], e)]
        rows["observation.depth"] = [png(image) for image in depth[e]]
        path = root / f"data/chunk-{e // 2:03d}/episode_{e:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(path, index=False)
    axes = ["height", "width", "channels"]
    features = {
        CAMERAS[0]: {"dtype": "image", "shape": [64, 64, 3], "names": axes},
        "observation.depth": {"dtype": "image", "shape": [8, 8, 1], "names": axes},
        "observation.state": {"dtype": "float32", "shape": [3]}, "action": {"dtype": "float32", "shape": [2]},
        "timestamp": {"dtype": "float32", "shape": [1]},
        **{name: {"dtype": dtype, "shape": [1]} for name, dtype in INDEX.items()},
    }  # fmt: skip
    info = {
        "codebase_version": "v2.1", "fps": FPS, "features": features, "chunks_size": 2, "total_chunks": 3,
        "total_videos": 0, "video_path": None, "splits": {"train": "0:5"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    }  # fmt: skip
    lines = {
        "tasks": [{"task_index": n, "task": task_of(n)} for n in range(2)],
        "episodes": [{"episode_index": e, "tasks": [task_of(e)], "length": LENGTHS[e]} for e in range(5)],
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    for name, rows in lines.items():
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = LeRobotDataset(root)
    assert dataset.version == "v2.1" and dataset.cameras == ["top"] and dataset.depth_keys == ["observation.depth"]
    for e, (state, action) in enumerate(numbers):
        episode = dataset.episode(e)
        assert (episode[CAMERAS[0]] == frames_of(CAMERAS[0], e)).all()
        assert (episode["observation.depth"][..., 0] == depth[e]).all()
        assert (episode["action"] == action).all() and (episode["observation.state"] == state).all()
    assert (dataset.frames("top", 3, 38, 2) == frames_of(CAMERAS[0], 3)[38:]).all()


def test_what_is_written_here_has_the_types_and_places_of_the_reference(dataset_root, version_3):
    """Columns, their types, and every path; what LeRobot's reader needs and what its tools look at."""
    ours = sorted(path.relative_to(dataset_root).as_posix() for path in dataset_root.rglob("*") if path.is_file())
    assert ours == [
        "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet", "meta/info.json",
        "meta/stats.json", "meta/tasks.parquet", "videos/observation.images.corner2/chunk-000/file-000.mp4",
    ]  # fmt: skip
    info, reference = (json.loads((root / "meta/info.json").read_text()) for root in (dataset_root, version_3))
    assert set(reference) <= set(info)
    assert info["data_path"] == reference["data_path"] and info["video_path"] == reference["video_path"]
    rows = pq.read_schema(dataset_root / ours[0])
    assert rows.field("action").type == pa.list_(pa.float32(), 2)
    assert rows.field("observation.state").type == pa.list_(pa.float32(), 3)
    assert rows.field("timestamp").type == pa.float32()
    assert all(rows.field(name).type == pa.int64() for name in INDEX)
    episodes, theirs = (pq.read_schema(root / ours[1]) for root in (dataset_root, version_3))
    for name in theirs.names:
        if not name.startswith(("stats/", "videos/")):
            assert episodes.field(name).type == theirs.field(name).type, name
    video = [name.rsplit("/", 1)[1] for name in theirs.names if name.startswith(f"videos/{CAMERAS[0]}/")]
    for name in video:
        found = episodes.field(f"videos/observation.images.corner2/{name}").type
        assert found == theirs.field(f"videos/{CAMERAS[0]}/{name}").type, name
    tasks = [pd.read_parquet(root / "meta/tasks.parquet") for root in (dataset_root, version_3)]
    assert tasks[0].equals(tasks[1]) and tasks[0].index.name == "task"


def test_nothing_is_lost_on_the_way_in_and_out(tmp_path):
    """Numbers of every type to the bit, timestamps exact, pictures within what the codec does."""
    from hf_vpdd.data import LeRobotWriter

    generator = np.random.default_rng(0)
    extremes = np.array([np.finfo(np.float32).max, np.finfo(np.float32).tiny, -0.0, 1 / 3, np.pi, -1e-38], np.float32)
    episodes = [
        {
            "observation.images.a": numbered_frames(np.arange(n), 64), "action": generator.normal(size=(n, 2, 3)),
            "observation.state": np.resize(extremes, (n, 6)), "count": np.arange(n) + 2**53 + 1,
            "small": np.arange(n, dtype=np.uint8), "done": np.arange(n) == n - 1, "word": np.array(["é", ""] * n)[:n],
        }
        for n in (1, 7, 33)
    ]  # fmt: skip
    with LeRobotWriter(tmp_path / "set", 29.97, crf=5, pix_fmt="yuv444p") as writer:
        for episode in episodes:
            writer.add_episode(episode, "try it")
    dataset = LeRobotDataset(tmp_path / "set")
    assert dataset.fps == 29.97
    for number, before in enumerate(episodes):
        after = dataset.episode(number)
        for key, value in before.items():
            if key == "observation.images.a":
                error = value.astype(float) - after[key]
                assert 10 * np.log10(255**2 / (error**2).mean()) > 38
            else:
                value = value.astype(np.float32) if value.dtype == np.float64 else value
                assert after[key].tolist() == value.tolist() and after[key].shape == value.shape, key
        assert (after["timestamp"] == (np.arange(len(before["count"])) / 29.97).astype(np.float32)).all()
