"""CALVIN folders are read as they are: lazily, float32, windows of sentences."""

import importlib
import json
import pickle

import numpy as np
import pytest

from hf_vpdd.commands.info import summarize
from hf_vpdd.data import CalvinDataset, FrameStore, LeRobotDataset, build_views, open_dataset
from hf_vpdd.data.windows import WindowDataset
from hf_vpdd.errors import InputError

from .calvin_folder import SENTENCES, TASKS, WINDOWS, frame, write_annotations, write_calvin, write_frame


STATE = [0, 1, 2, 3, 4, 5, 14]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_calvin(tmp_path_factory.mktemp("calvin") / "task_D_D", ("training", "validation"))


@pytest.fixture(scope="module")
def dataset(root):
    return CalvinDataset(root, progress=False)


def test_episodes_are_the_annotated_windows(dataset):
    assert dataset.episodes.task == SENTENCES and dataset.annotations.task == TASKS
    assert dataset.episodes.length.tolist() == [last - first + 1 for first, last in WINDOWS]
    assert dataset.num_frames == sum(dataset.episodes.length)
    assert dataset.tasks == list(dict.fromkeys(SENTENCES))
    assert dataset.cameras == ["rgb_static", "rgb_gripper"] and dataset.fps == 30
    assert [path.name for path in dataset.files(2)][:2] == ["episode_0000060.npz", "episode_0000061.npz"]


def test_an_episode_holds_the_numbers_of_its_frames(dataset):
    episode = dataset.episode(3)
    frames = [frame(number) for number in range(61, 73)]
    for name, key, columns in (
        ("observation.state", "robot_obs", STATE),
        ("action", "rel_actions", slice(None)),
        ("calvin.robot_obs", "robot_obs", slice(None)),
        ("calvin.scene_obs", "scene_obs", slice(None)),
        ("calvin.actions", "actions", slice(None)),
    ):
        expected = np.stack([one[key][columns] for one in frames]).astype(np.float32)
        assert episode[name].dtype == np.float32
        np.testing.assert_array_equal(episode[name], expected)
        assert dataset.features[name]["shape"] == [expected.shape[1]]
    for camera in ("rgb_static", "rgb_gripper"):
        expected = np.stack([one[camera] for one in frames])
        np.testing.assert_array_equal(episode[f"observation.images.{camera}"], expected)
        np.testing.assert_array_equal(dataset.frames(camera, 3, 2, 4), expected[2:6])
    assert episode["timestamp"].tolist() == (np.arange(12) / 30).astype(np.float32).tolist()
    assert episode["task"] == "grasp the drawer" and (episode["task_index"] == 1).all()
    assert "observation.images.rgb_static" not in dataset.episode(3, images=False)


def test_columns_are_the_episodes_end_to_end(dataset):
    columns = dataset.columns(["observation.state", "action"])
    for name, value in columns.items():
        expected = np.concatenate([dataset.episode(e, images=False)[name] for e in range(len(dataset))])
        np.testing.assert_array_equal(value, expected)


def test_opening_reads_one_frame_and_a_look_reads_what_it_needs(root, monkeypatch):
    read, calvin_module = [], importlib.import_module("hf_vpdd.data.calvin")
    real = calvin_module.read_members
    monkeypatch.setattr(calvin_module, "read_members", lambda path, wanted: read.append(wanted) or real(path, wanted))
    dataset = CalvinDataset(root)
    assert read == []
    dataset.frames("static", 0, 3, 2)
    assert [list(wanted) for wanted in read] == [["rgb_static"]] * 2


def test_splits_and_names(root):
    assert CalvinDataset(root).root.name == "training"
    assert CalvinDataset(root, "validation").root == CalvinDataset(root / "validation").root
    assert isinstance(open_dataset(root / "validation"), CalvinDataset)
    dataset = CalvinDataset(root)
    assert dataset.camera_key("static") == dataset.camera_key("observation.images.rgb_static")
    with pytest.raises(InputError, match=r"no camera 'wrist'; its cameras are \['rgb_static', 'rgb_gripper'\]"):
        dataset.camera_key("wrist")
    with pytest.raises(InputError, match="episode 5 asked .* episodes 0 to 4"):
        dataset.episode(5)
    with pytest.raises(InputError, match="frames 4 to 6 asked of episode 1, which has 6"):
        dataset.frames("static", 1, 4, 3)


def test_a_lerobot_dataset_is_still_opened_as_one(dataset_root, tmp_path):
    assert isinstance(open_dataset(dataset_root), LeRobotDataset)
    assert open_dataset(dataset_root).fingerprint == LeRobotDataset(dataset_root).fingerprint
    with pytest.raises(InputError, match="is not a LeRobot dataset"):
        open_dataset(tmp_path)


def test_frame_stores_and_windows_take_it(root, dataset, tmp_path):
    store = build_views(root, ["rgb_static", "gripper"], image_size=84, cache_dir=tmp_path, progress=False)
    assert store.cameras == ["rgb_static", "rgb_gripper"] and store.fps == 30
    np.testing.assert_array_equal(
        store.views[1].frames[:], np.concatenate([dataset.frames("gripper", e) for e in range(5)])
    )
    np.testing.assert_array_equal(store.action, dataset.columns(["action"])["action"])
    batch = WindowDataset(store, history_frames=2, chunk_size=4)[[0, 9]]
    assert batch["pixel_values"].shape == (2, 2, 2, 84, 84, 3) and batch["action"].shape == (2, 4, 7)
    assert batch["action_is_pad"].tolist() == [[False] * 4, [False, True, True, True]]
    again = FrameStore.build(root, "static", 84, tmp_path, progress=False)
    assert again.fingerprint == store.views[0].fingerprint


def test_the_fingerprint_changes_with_a_frame_and_with_a_sentence(tmp_path):
    split = write_calvin(tmp_path / "task_D_D", sizes={"rgb_static": 8}) / "training"
    before = CalvinDataset(split).fingerprint
    assert CalvinDataset(split).fingerprint == before
    write_frame(split, 62, frame(62, {"rgb_static": 8}) | {"rgb_tactile": np.zeros((160, 120, 6), np.uint8)})
    other_frame = CalvinDataset(split).fingerprint
    write_annotations(split, sentences=["go right", *SENTENCES[1:]])
    assert len({before, other_frame, CalvinDataset(split).fingerprint}) == 3


def test_video_alone_and_old_places_of_the_annotations(tmp_path):
    split = write_calvin(tmp_path / "task_D_D", sizes={"rgb_static": 8}) / "training"
    for path in split.glob("episode_*.npz"):
        number = int(path.stem[8:])
        write_frame(split, number, {"rgb_static": frame(number, {"rgb_static": 8})["rgb_static"]})
    (split / "lang_annotations").rename(split / "lang_paraphrase-MiniLM-L3-v2")
    dataset = CalvinDataset(split)
    assert list(dataset.features) == ["observation.images.rgb_static"] and dataset.columns([]) == {}
    store = FrameStore.build(split, "static", 8, tmp_path / "cache", progress=False)
    assert store.action is None and store.state is None


def test_annotations_of_either_numpy_are_read(dataset, monkeypatch):
    """Files written by numpy 1 name `numpy.core`, those of numpy 2 `numpy._core`; numbers may be numpy's own."""
    path = dataset.annotations_file
    content = {
        "language": {"ann": [np.str_(words) for words in SENTENCES], "task": np.array(TASKS)},
        "info": {"indx": [(np.int64(first), np.int64(last)) for first, last in WINDOWS]},
    }
    before = path.read_bytes()
    try:
        np.save(path, content)
        assert CalvinDataset(path.parent.parent).annotations.sentence == SENTENCES
        header = before[: before.index(b"}") + 1]
        header = before[: before.index(b"\n", len(header)) + 1]
        body = pickle.dumps(np.array(content, object), protocol=3).replace(b"numpy._core", b"numpy.core")
        assert b"cnumpy.core.multiarray\n_reconstruct\n" in body
        path.write_bytes(header + body)
        assert CalvinDataset(path.parent.parent).annotations.sentence == SENTENCES
    finally:
        path.write_bytes(before)


def test_it_travels_to_other_processes(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy.frames("static", 1), dataset.frames("static", 1))


def test_info_counts_it(dataset):
    summary = summarize(dataset)
    assert json.dumps(summary)
    assert (summary["format"], summary["episodes"], summary["frames"]) == ("CALVIN", 5, dataset.num_frames)
    assert summary["data_files"] == 26 and summary["data_mb"] > 0.5
