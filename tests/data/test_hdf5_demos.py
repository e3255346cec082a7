"""HDF5 demonstrations of robomimic and LIBERO."""

import shutil

import numpy as np
import pytest

from hf_vpdd.data import FrameStore, HDF5Dataset, open_dataset
from hf_vpdd.errors import InputError

from .robot_folders import picture, write_libero, write_robomimic


h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def libero(tmp_path_factory):
    root = tmp_path_factory.mktemp("hdf5") / "libero_spatial"
    write_libero(root / "pick_up_the_bowl_demo.hdf5")
    write_libero(root / "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5", lengths=(6,), sentence=None)
    return root


@pytest.fixture(scope="module")
def can(tmp_path_factory):
    return write_robomimic(tmp_path_factory.mktemp("robomimic") / "can.hdf5")


def test_libero_comes_out_as_it_is_but_upright(libero):
    dataset = open_dataset(libero, progress=False)
    assert isinstance(dataset, HDF5Dataset) and dataset.version == "LIBERO HDF5"
    assert (dataset.episodes.length.tolist(), dataset.fps) == ([6, 7, 9], 20)
    assert dataset.tasks == ["turn on the stove", "pick up the bowl"]  # by the file's name; by what it says
    assert dataset.cameras == ["agentview", "eye_in_hand"]
    episode = dataset.episode(2)
    with h5py.File(libero / "pick_up_the_bowl_demo.hdf5") as file:
        demo = file["data/demo_1"]
        assert np.array_equal(episode["action"], demo["actions"][:].astype(np.float32))
        state = np.concatenate([demo["obs/ee_states"][:], demo["obs/gripper_states"][:]], 1)
        assert np.array_equal(episode["observation.state"], state.astype(np.float32))
        assert np.array_equal(episode["observation.joint_positions"], demo["obs/joint_states"][:].astype(np.float32))
    assert np.array_equal(episode["observation.images.agentview"], [picture(frame) for frame in range(9)])
    assert np.array_equal(dataset.frames("eye_in_hand", 2, 3, 2), [picture(53), picture(54)])
    assert len(dataset.features["observation.state"]["names"]) == 8


@pytest.mark.parametrize(
    "orientation, expected",
    [("upright", lambda p: p), ("stored", lambda p: p[::-1]), ("rotated", lambda p: p[:, ::-1])],
)
def test_orientations_of_libero(libero, orientation, expected):
    """`rotated` turns the stored picture by 180 degrees: the upright one, mirrored."""
    dataset = HDF5Dataset(libero, orientation=orientation, progress=False)
    assert np.array_equal(dataset.frames("agentview", 0, 2, 1)[0], expected(picture(2)))
    assert (dataset.fingerprint == HDF5Dataset(libero, progress=False).fingerprint) == (orientation == "upright")


def test_robomimic_comes_out_as_it_is(can):
    dataset = open_dataset(can, progress=False)
    assert (dataset.version, dataset.tasks) == ("robomimic HDF5", ["pick place can"])
    assert [dataset.note(n)["demo"] for n in range(3)] == ["demo_0", "demo_10", "demo_11"]
    episode = dataset.episode(1)
    with h5py.File(can) as file:
        obs = file["data/demo_10/obs"]
        parts = [obs[f"robot0_{key}"][:] for key in ("eef_pos", "eef_quat", "gripper_qpos")]
        assert np.array_equal(episode["observation.state"], np.concatenate(parts, 1).astype(np.float32))
    assert np.array_equal(episode["observation.images.agentview"], [picture(frame) for frame in range(9)])
    assert HDF5Dataset(can, instruction="put the can away", progress=False).tasks == ["put the can away"]


def test_both_arms_are_in_the_state(tmp_path):
    dataset = HDF5Dataset(write_robomimic(tmp_path / "transport.hdf5", arms=2), progress=False)
    assert dataset.features["observation.state"]["shape"] == [18] and dataset.features["action"]["shape"] == [14]
    assert dataset.features["observation.state"]["names"][9] == "robot1_x"


def test_frame_stores_take_a_file_and_keep_their_caches_apart(can, tmp_path):
    one = tmp_path / "one.hdf5"
    shutil.copy(can, one)
    two = write_robomimic(tmp_path / "two.hdf5", lengths=(4,))
    stores = [FrameStore.build(path, "agentview", image_size=8, progress=False) for path in (one, two, one)]
    assert [store.num_frames for store in stores] == [21, 4, 21]
    assert np.array_equal(stores[0].frames[np.arange(21)], stores[2].frames[np.arange(21)])
    assert len(list((tmp_path / ".cache" / "hf_vpdd").glob("frames-*"))) == 2


def test_two_layouts_in_one_folder_are_refused(can, libero, tmp_path):
    shutil.copy(can, tmp_path / "can.hdf5")
    shutil.copy(libero / "pick_up_the_bowl_demo.hdf5", tmp_path / "pick.hdf5")
    with pytest.raises(InputError, match="pick.hdf5 is libero at 20 steps a second, .* begins with robomimic"):
        HDF5Dataset(tmp_path, progress=False)


def test_without_h5py_the_message_says_what_to_install(can, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    for skip_bad in (False, True):
        with pytest.raises(
            InputError, match=r"can.hdf5 is an HDF5 file, which needs h5py: pip install 'hf-vpdd\[hdf5"
        ):
            HDF5Dataset(can, skip_bad=skip_bad, progress=False)
