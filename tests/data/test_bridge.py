"""Raw trajectories of Bridge V2."""

import numpy as np
import pytest

from hf_vpdd.data import BridgeDataset, FrameStore, open_dataset
from hf_vpdd.errors import InputError

from .robot_folders import picture, write_bridge, write_trajectory


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_bridge(tmp_path_factory.mktemp("bridge") / "bridgedata_raw")


def test_what_is_in_the_folder_comes_out_as_it_is(root):
    dataset = open_dataset(root, progress=False)
    assert isinstance(dataset, BridgeDataset) and dataset.fps == 5
    # the oldest first; one observation less than there are, and of the oldest another one less
    assert dataset.episodes.length.tolist() == [7, 8, 5]
    assert dataset.episodes.task == ["put the pot on the stove"] * 2 + ["put pot on stove"]
    assert [dataset.note(n)["sentence_from"] for n in range(3)] == ["lang.txt", "lang.txt", "folder"]
    assert dataset.cameras == ["images0"]  # what all of them have
    episode = dataset.episode(1)
    assert np.array_equal(episode["action"][:, 0], np.arange(8, dtype=np.float32) / np.float32(100))
    assert np.array_equal(episode["observation.state"][:, 0], np.arange(8, dtype=np.float32))
    error = np.abs(episode["observation.images.images0"].astype(int) - [picture(frame) for frame in range(8)])
    assert error.mean() < 12  # JPEG
    assert np.allclose(episode["timestamp"], np.arange(8) / 5)


def test_old_recordings_pair_each_action_with_the_next_picture(root):
    dataset = BridgeDataset(root, progress=False)
    episode = dataset.episode(0)
    assert episode["observation.state"][:, 0].tolist() == list(range(1, 8))
    assert np.allclose(episode["action"][:, 0], np.arange(7) / 100)
    new = BridgeDataset(root, progress=False).frames("images0", 1)
    assert np.array_equal(episode["observation.images.images0"], new[1:8])
    assert np.array_equal(dataset.frames("images0", 0, 2, 3), new[3:6])


def test_only_described_trajectories(root):
    assert BridgeDataset(root, described_only=True, progress=False).num_episodes == 2


@pytest.mark.parametrize(
    "below", ["rss", "rss/toykitchen2/put_pot_on_stove", "rss/toykitchen2/put_pot_on_stove/00/2022-01-01_00-00-00",
              "rss/toykitchen2/put_pot_on_stove/00/2022-01-01_00-00-00/raw/traj_group0"],
)  # fmt: skip
def test_any_folder_above_the_trajectories_will_do(root, below):
    dataset = BridgeDataset(root / below, progress=False)
    assert dataset.num_episodes == (2 if "2022" in below else 3)
    assert dataset.note(dataset.num_episodes - 1)["task"] == "put pot on stove"


def test_cameras_of_some_trajectories_only_must_be_asked_for_where_they_are(root):
    dated = root / "rss/toykitchen2/put_pot_on_stove/00/2022-01-01_00-00-00"
    assert BridgeDataset(dated, progress=False).cameras == ["images0", "images1"]
    with pytest.raises(InputError, match=r"asked for the cameras \['images1'\].*\['images0'\]"):
        BridgeDataset(root, cameras=["images1"], progress=False)


def test_actions_that_are_plain_rows(tmp_path):
    import pickle

    folder = write_trajectory(tmp_path / "task/00/2022-01-01_00-00-00/raw/traj_group0/traj0")
    (folder / "policy_out.pkl").write_bytes(pickle.dumps([np.full(7, step / 100) for step in range(8)]))
    assert np.allclose(BridgeDataset(tmp_path, progress=False).columns(["action"])["action"][:, 3], np.arange(8) / 100)


def test_frame_stores_take_the_folder(root, tmp_path):
    store = FrameStore.build(root, "images0", image_size=8, progress=False, cache_dir=tmp_path)
    assert store.num_frames == 20 and store.action.shape == (20, 7) and store.tasks[1] == "put pot on stove"
