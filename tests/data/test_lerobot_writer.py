import json
import shutil

import numpy as np
import pandas as pd
import pytest

from hf_vpdd.data.lerobot import LeRobotDataset
from hf_vpdd.data.lerobot_writer import LeRobotWriter, encode_video
from hf_vpdd.errors import InputError

from .conftest import FPS, LENGTHS, make_episodes, numbered_frames, read_numbers, task_of, write_dataset


def test_numbers_exact_and_frames_in_place(dataset_root, episodes):
    dataset = LeRobotDataset(dataset_root)
    assert dataset.episodes.length.tolist() == list(LENGTHS) and dataset.tasks == ["open it", "close it"]
    row = 1
    for number, episode in enumerate(episodes):
        length = LENGTHS[number]
        read = dataset.episode(number)
        assert read["task"] == task_of(number)
        for key in ("observation.state", "action"):
            assert read[key].dtype == np.float32 and (read[key] == episode[key]).all()
        assert (read["timestamp"] == (np.arange(length) / FPS).astype(np.float32)).all()
        assert (read["frame_index"] == np.arange(length)).all() and (read["episode_index"] == number).all()
        assert (read["index"] == np.arange(row - 1, row - 1 + length)).all()
        assert (read["task_index"] == number % 2).all()
        frames = read["observation.images.corner2"]
        assert read_numbers(frames).tolist() == list(range(row, row + length))
        error = np.mean((frames.astype(float) - episode["observation.images.corner2"]) ** 2)
        assert 10 * np.log10(255**2 / error) > 30
        row += length
    assert len(list(dataset_root.rglob("*.mp4"))) == 1  # all five episodes in one file


def test_layout_is_the_one_of_the_format(dataset_root):
    """Against reference lerobot.md §1.7, read with pandas as LeRobot does."""
    info = json.loads((dataset_root / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == FPS and info["robot_type"] == "test arm"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (5, 83, 2)
    assert info["splits"] == {"train": "0:5"} and info["chunks_size"] == 1000
    video = info["features"]["observation.images.corner2"]
    assert video["dtype"] == "video" and video["shape"] == [48, 48, 3]
    assert video["info"]["video.codec"] == "h264" and video["info"]["video.pix_fmt"] == "yuv420p"
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": None}
    assert info["features"]["timestamp"]["dtype"] == "float32" and info["features"]["index"]["dtype"] == "int64"

    tasks = pd.read_parquet(dataset_root / "meta" / "tasks.parquet")
    assert tasks.index.name == "task" and tasks.loc["close it"].task_index == 1
    table = pd.read_parquet(dataset_root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    assert table["dataset_from_index"].tolist() == [0, 7, 30, 31, 71]
    assert table["dataset_to_index"].tolist() == [7, 30, 31, 71, 83]
    assert [list(names) for names in table["tasks"]] == [[task_of(i)] for i in range(5)]
    start = table["videos/observation.images.corner2/from_timestamp"].to_numpy()
    stop = table["videos/observation.images.corner2/to_timestamp"].to_numpy()
    assert np.allclose(start * FPS, [0, 7, 30, 31, 71], atol=1e-9) and np.allclose(stop[:-1], start[1:], atol=1e-9)
    rows = pd.read_parquet(dataset_root / "data" / "chunk-000" / "file-000.parquet")
    assert len(rows) == 83 and "observation.images.corner2" not in rows
    assert not (dataset_root / ".partial").exists()


def test_huggingface_datasets_opens_the_rows(dataset_root, tmp_path):
    from datasets import load_dataset

    rows = load_dataset("parquet", data_dir=str(dataset_root / "data"), split="train", cache_dir=str(tmp_path))
    assert rows.num_rows == 83 and len(rows[0]["action"]) == 2


def test_statistics_are_those_of_the_data(dataset_root, episodes):
    stats = LeRobotDataset(dataset_root).stats
    action = np.concatenate([episode["action"] for episode in episodes]).astype(np.float64)
    assert np.allclose(stats["action"]["mean"], action.mean(0)) and np.allclose(stats["action"]["std"], action.std(0))
    assert np.allclose(stats["action"]["q90"], np.quantile(action, 0.9, axis=0))
    assert stats["action"]["count"].tolist() == [83]
    images = np.concatenate([episode["observation.images.corner2"] for episode in episodes]) / 255.0
    image = stats["observation.images.corner2"]
    assert image["mean"].shape == (3, 1, 1) and image["count"].tolist() == [83]
    assert np.allclose(image["mean"].reshape(-1), images.mean(axis=(0, 1, 2)))
    assert np.allclose(image["std"].reshape(-1), images.std(axis=(0, 1, 2)))
    assert set(stats) >= {"timestamp", "frame_index", "observation.state"}


def test_several_cameras_and_encoded_episodes(tmp_path):
    """What the recorder does: videos made elsewhere, copied in; here next to the way through memory."""
    episodes = make_episodes((9, 30, 4), cameras=("corner2", "gripper"))
    with LeRobotWriter(tmp_path / "set", FPS, features={"action": {"names": ["dx", "dy"]}}) as writer:
        for number, episode in enumerate(episodes):
            videos, columns = {}, {key: v for key, v in episode.items() if "images" not in key}
            if number == 1:
                writer.add_episode(episode, "open it")
                continue
            for camera in ("corner2", "gripper"):
                frames = episode[f"observation.images.{camera}"]
                videos[camera] = encode_video(tmp_path / f"{number}-{camera}.mp4", frames, FPS)
            writer.add_encoded_episode(videos, columns, "open it")
    dataset = LeRobotDataset(tmp_path / "set")
    assert dataset.cameras == ["corner2", "gripper"]
    assert dataset.features["action"]["names"] == ["dx", "dy"]
    assert len(list((tmp_path / "set").rglob("*.mp4"))) == 2  # one per camera, both ways of adding share it
    first = 1
    for number, length in enumerate((9, 30, 4)):
        for offset, camera in ((0, "corner2"), (5000, "gripper")):
            expected = np.arange(first, first + length) + offset
            assert (read_numbers(dataset.frames(camera, number)) == expected).all()
        first += length
    stats = dataset.stats["observation.images.gripper"]
    truth = np.concatenate([episode["observation.images.gripper"] for episode in episodes]) / 255.0
    assert np.allclose(stats["mean"].reshape(-1), truth.mean(axis=(0, 1, 2)), atol=0.03)  # a subsample of the frames


def test_new_files_past_the_size_limit(tmp_path, episodes):
    root = write_dataset(tmp_path / "set", episodes, video_file_mb=0.004)
    assert len(list(root.rglob("*.mp4"))) > 1
    dataset = LeRobotDataset(root)
    numbers = np.concatenate([read_numbers(dataset.frames("corner2", i)) for i in range(5)])
    assert numbers.tolist() == list(range(1, 84))


def test_new_data_files_past_the_size_limit(tmp_path, monkeypatch, episodes):
    monkeypatch.setattr(LeRobotWriter, "_flush_at", 25)
    root = write_dataset(tmp_path / "set", episodes, data_file_mb=0.0001)
    assert len(list(root.rglob("data/*/*.parquet"))) == 3
    dataset = LeRobotDataset(root)
    for number, episode in enumerate(episodes):
        assert (dataset.episode(number, images=False)["action"] == episode["action"]).all()
    assert (dataset.columns(["index"])["index"] == np.arange(83)).all()


def test_other_column_kinds(tmp_path):
    columns = {
        "reward": np.linspace(0, 1, 6),
        "done": np.arange(6) == 5,
        "note": np.array(list("abcdef")),
        "matrix": np.arange(36.0).reshape(6, 2, 3),
    }
    with LeRobotWriter(tmp_path / "set", FPS) as writer:
        writer.add_encoded_episode({}, columns, "wait")
    read = LeRobotDataset(tmp_path / "set").episode(0)
    assert np.allclose(read["reward"], columns["reward"]) and read["reward"].shape == (6,)
    assert (read["done"] == columns["done"]).all() and read["note"].tolist() == list("abcdef")
    assert (read["matrix"] == columns["matrix"]).all()


def test_same_episodes_same_bytes(tmp_path, episodes):
    for name in ("a", "b"):
        write_dataset(tmp_path / name, episodes[:3])
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_nothing_appears_before_finalize_and_the_next_writer_starts_afresh(tmp_path, episodes):
    root = tmp_path / "set"
    writer = LeRobotWriter(root, FPS)
    writer.add_episode(episodes[0], "open it")
    assert [p.name for p in root.iterdir()] == [".partial"]
    with pytest.raises(InputError, match="half-written"):
        LeRobotDataset(root)
    del writer  # as after a kill
    # A kill in the middle of finalize: data had been moved already.
    shutil.copytree(root / ".partial", root / "data")
    write_dataset(root, episodes[1:3])
    assert LeRobotDataset(root).episodes.length.tolist() == [23, 1]


def test_an_error_leaves_no_dataset(tmp_path, episodes):
    with pytest.raises(RuntimeError):
        with LeRobotWriter(tmp_path / "set", FPS) as writer:
            writer.add_episode(episodes[0], "open it")
            raise RuntimeError
    assert not list((tmp_path / "set").iterdir())


def test_finished_or_foreign_folders_are_not_touched(dataset_root, tmp_path):
    with pytest.raises(InputError, match="finished dataset"):
        LeRobotWriter(dataset_root, FPS)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="not left by this writer"):
        LeRobotWriter(tmp_path, FPS)
    assert (tmp_path / "data" / "precious.txt").read_text() == "mine"


def test_bad_episodes_are_refused_and_the_writer_goes_on(tmp_path, episodes):
    good = episodes[0]
    with LeRobotWriter(tmp_path / "set", FPS) as writer:
        writer.add_episode(good, "open it")
        bad = {"action": good["action"].copy()}
        bad["action"][4, 1] = np.nan
        cases = {
            "frame 4: action is NaN": ({**good, **bad}, "open it"),
            "same number of frames": ({**good, "action": good["action"][:-1]}, "open it"),
            "has the features": ({k: v for k, v in good.items() if k != "action"}, "open it"),
            r"shape \[3\], but this dataset has \[2\]": ({**good, "action": np.zeros((7, 3))}, "open it"),
            "dtype int64": ({**good, "action": np.zeros((7, 2), np.int64)}, "open it"),
            "the task is ' '": (good, " "),
            "makes the columns": ({**good, "timestamp": np.zeros(7)}, "open it"),
            "uint8 RGB": ({**good, "observation.images.corner2": np.zeros((7, 48, 48, 1), np.uint8)}, "open it"),
        }
        for message, (frames, task) in cases.items():
            with pytest.raises(InputError, match=message):
                writer.add_episode(frames, task)
        short = encode_video(tmp_path / "short.mp4", numbered_frames(range(3)), FPS)
        columns = {key: good[key] for key in ("observation.state", "action")}
        with pytest.raises(InputError, match="holds 3 frames, its episode has 7"):
            writer.add_encoded_episode({"corner2": short}, columns, "open it")
        writer.add_episode(good, "close it")
    dataset = LeRobotDataset(tmp_path / "set")
    assert dataset.num_episodes == 2 and dataset.tasks == ["open it", "close it"]
    for number in range(2):
        assert read_numbers(dataset.frames("corner2", number)).tolist() == list(range(1, 8))
        assert (dataset.episode(number)["action"] == good["action"]).all()


def test_an_empty_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match="no episode"):
        LeRobotWriter(tmp_path / "set", FPS).finalize()
