"""RLBench demonstrations are read without RLBench: PerAct's layout and RLBench's own."""

import pickle
import sys

import numpy as np
import pytest

from hf_vpdd.data import FrameStore, RLBenchDataset, find_keyframes, open_dataset
from hf_vpdd.errors import InputError

from .robot_folders import JAR, LENGTH, SIZE, observation, picture, write_demo, write_episode, write_rlbench


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_rlbench(tmp_path_factory.mktemp("peract") / "train", episodes=11)


def test_what_is_in_the_folder_comes_out_as_it_is(root):
    dataset = open_dataset(root, progress=False)
    assert isinstance(dataset, RLBenchDataset) and "rlbench" not in sys.modules
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (22, 22 * LENGTH, 20)
    assert dataset.cameras == ["front", "wrist"]
    assert [name.rsplit("/", 1)[1] for name in dataset.episode_names[:11]] == [f"episode{n}" for n in range(11)]
    assert dataset.tasks == [JAR[0], "open the top drawer"]  # the first of several descriptions
    episode = dataset.episode(5)
    wanted = [observation(frame) for frame in range(LENGTH)]
    poses = np.array([np.append(o.gripper_pose, o.gripper_open) for o in wanted], np.float32)
    assert np.array_equal(episode["action"], poses)
    fingers = np.array([[o.gripper_open, *o.gripper_joint_positions, 1] for o in wanted], np.float32)
    assert np.array_equal(episode["observation.state"], fingers)
    assert np.array_equal(episode["observation.images.wrist"], [picture(frame) for frame in range(LENGTH)])
    assert np.array_equal(dataset.frames("front", 2, 4, 3), [picture(frame) for frame in (4, 5, 6)])
    assert dataset.features["observation.images.front"]["shape"] == [SIZE, SIZE, 3]
    assert dataset.features["action"]["names"][-1] == "gripper_open"
    assert dataset.note(0) == {
        "episode": "close_jar/all_variations/episodes/episode0", "task": "close_jar", "variation": 3,
        "descriptions": JAR,
    }  # fmt: skip


def test_keyframes_are_peracts(root):
    episode = RLBenchDataset(root, progress=False).episode(0, images=False)
    found = np.flatnonzero(episode["keyframe"])
    velocities = np.array([observation(frame).joint_velocities for frame in range(LENGTH)])
    assert found.tolist() == find_keyframes(episode["action"][:, -1], velocities).tolist() == [3, 6, LENGTH - 1]


@pytest.mark.parametrize("below", ["", "close_jar", "close_jar/all_variations", "close_jar/all_variations/episodes"])
def test_any_folder_above_the_episodes_will_do(root, below):
    dataset = RLBenchDataset(root / below, progress=False)
    assert dataset.num_episodes == (11 if below else 22)
    assert dataset.note(1)["task"] == "close_jar"


def test_rlbenchs_own_layout_keeps_descriptions_with_the_variation(tmp_path):
    for variation in (0, 2, 10):
        folder = tmp_path / "close_jar" / f"variation{variation}"
        write_episode(folder / "episodes" / "episode0", descriptions=None)
        (folder / "variation_descriptions.pkl").write_bytes(pickle.dumps([f"jar {variation}"]))
    dataset = RLBenchDataset(tmp_path, progress=False)
    assert dataset.episodes.task == ["jar 0", "jar 2", "jar 10"]
    assert dataset.note(2)["variation"] == 10


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_and_of_numpy_1(tmp_path, protocol):
    folder = write_episode(tmp_path / "close_jar" / "all_variations" / "episodes" / "episode0", protocol=protocol)
    before = RLBenchDataset(tmp_path, progress=False).episode(0, images=False)["action"]
    assert np.array_equal(before[4, :7], observation(4).gripper_pose.astype(np.float32))
    if protocol <= 2:  # names stand there as lines
        path = folder / "low_dim_obs.pkl"
        assert b"numpy._core" in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(b"numpy._core", b"numpy.core"))
        assert np.array_equal(RLBenchDataset(tmp_path, progress=False).episode(0, images=False)["action"], before)


def test_a_pickle_cannot_leave_anything_behind(tmp_path):
    folder = write_episode(tmp_path / "close_jar" / "all_variations" / "episodes" / "episode0")
    path = folder / "low_dim_obs.pkl"
    good = path.read_bytes()
    # Sets an attribute of the class Observation itself, which all later files would have, too.
    path.write_bytes(b"crlbench.backend.observation\nObservation\n(N}S'gripper_open'\nI7\nstb.")
    with pytest.raises(InputError, match="expected a Demo with a list of observations"):
        RLBenchDataset(tmp_path, progress=False)
    lacking = [observation(frame) for frame in range(LENGTH)]
    del lacking[5].gripper_open
    path.write_bytes(good)
    write_demo(path, lacking)
    with pytest.raises(InputError, match="gripper_open of frame 5: expected 1 numbers, found NoneType"):
        RLBenchDataset(tmp_path, progress=False)


def test_frame_stores_take_the_folder_with_its_keyframes(root):
    store = FrameStore.build(root, "wrist", image_size=8, progress=False, cache_dir=root.parent / "cache")
    assert store.frames.shape == (22 * LENGTH, 8, 8, 3) and store.action.shape == (22 * LENGTH, 8)
    assert store.keyframe[:LENGTH].tolist() == [frame in (3, 6, LENGTH - 1) for frame in range(LENGTH)]


def test_euler_angles_and_quaternions_of_poses_that_were_read(root):
    """Bins of keyframe policies turn quaternions into angles: through SciPy's there is the same rotation."""
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    import torch

    from hf_vpdd.modeling.vpdd.pose_actions import pose_to_vector, vector_to_pose

    poses = RLBenchDataset(root, progress=False).episode(0, images=False)["action"]
    vectors = pose_to_vector(torch.from_numpy(poses))
    expected = rotation.from_quat(poses[:, 3:7]).as_euler("xyz", degrees=True)
    assert np.abs((vectors[:, 3:6].numpy() - expected + 180) % 360 - 180).max() < 1e-3
    again = vector_to_pose(vectors).numpy()
    assert np.abs(np.abs((again[:, 3:7] * poses[:, 3:7]).sum(1)) - 1).max() < 1e-5
    assert np.abs(again[:, [0, 1, 2, 7]] - poses[:, [0, 1, 2, 7]]).max() < 1e-6


def test_an_unknown_camera_is_named(root):
    with pytest.raises(InputError, match=r"asked for the cameras \['side'\].*\['front', 'wrist'\]"):
        RLBenchDataset(root, cameras=["side"], progress=False)
    with pytest.raises(InputError, match=r"no camera 'side'; its cameras are \['wrist'\]"):
        RLBenchDataset(root, cameras=["wrist"], progress=False).frames("side", 0)
