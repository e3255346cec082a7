"""What is wrong with a robot dataset ends in one error that names file, key, what was expected and what was found.

Each case damages the second of two good episodes, so that the error comes when it is opened or read; with `skip_bad`
the first remains. (What the converter makes of that is in `test_robot_conversion`.)
"""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from hf_vpdd.data import BridgeDataset, HDF5Dataset, RLBenchDataset
from hf_vpdd.data.source_dataset import SKIP_HINT
from hf_vpdd.errors import InputError

from .robot_folders import (
    LENGTH,
    Observation,
    observation,
    picture,
    write_demo,
    write_episode,
    write_libero,
    write_trajectory,
)


class Code:
    """Pickles to a call of `open`, which would make a file."""

    def __reduce__(self):
        return open, ("pwned", "w")


def check(root, reader, tmp_path, monkeypatch, message) -> None:
    """The error has the message and the path; with skip_bad the episode is left out, counted, and says the same."""
    monkeypatch.chdir(tmp_path)

    def read(episode):
        try:
            return dataset.episode(episode)
        except InputError as error:
            reasons.append(str(error))

    with pytest.raises(InputError, match=message) as error:
        dataset = reader(root, progress=False)
        for episode in range(2):
            dataset.episode(episode)
    assert str(root) in str(error.value)
    dataset = reader(root, progress=False, skip_bad=True)
    reasons = [skipped["reason"] for skipped in dataset.skipped]
    assert read(0) is not None
    assert dataset.num_episodes == 2 - len(reasons)
    if dataset.num_episodes == 2:
        read(1)
    assert len(reasons) == 1 and str(error.value) in (reasons[0], f"{reasons[0]}; {SKIP_HINT}")
    assert not (tmp_path / "pwned").exists()


def cut(path, share=0.6):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


# -- RLBench ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    root = tmp_path_factory.mktemp("rlbench")
    for number in range(2):
        write_episode(root / "close_jar" / "all_variations" / "episodes" / f"episode{number}")
    return root


def demo(changes=None, frame=7, length=LENGTH):
    def damage(folder):
        observations = [observation(n, **(changes or {}) if n == frame else {}) for n in range(length)]
        write_demo(folder / "low_dim_obs.pkl", observations)

    return damage


def dump(name, value):
    return lambda folder: (folder / name).write_bytes(pickle.dumps(value))


RLBENCH = {
    "no pickle": (lambda f: (f / "low_dim_obs.pkl").unlink(), r"low_dim_obs.pkl is missing"),
    "pickle cut short": (lambda f: cut(f / "low_dim_obs.pkl"), r"low_dim_obs.pkl cannot be read \(cut short"),
    "an empty pickle": (lambda f: (f / "low_dim_obs.pkl").write_bytes(b""), r"low_dim_obs.pkl cannot be read"),
    "no pickle at all": (lambda f: (f / "low_dim_obs.pkl").write_text("hello"), r"low_dim_obs.pkl cannot be read"),
    "code": (dump("low_dim_obs.pkl", Code()), r"low_dim_obs.pkl asks for \w+.open: .* refused"),
    "code inside": (demo({"misc": {"a": Code()}}), r"low_dim_obs.pkl asks for \w+.open: .* refused"),
    "code for descriptions": (
        dump("variation_descriptions.pkl", [Code()]),
        r"variation_descriptions.pkl asks for \w+.open: .* refused",
    ),
    "another class": (
        demo({"misc": {"a": np.random.RandomState(0)}}),
        r"low_dim_obs.pkl asks for numpy.random\S+: .* refused",
    ),
    "a demo of dictionaries": (
        lambda f: write_demo(f / "low_dim_obs.pkl", [{"gripper_open": 1.0}]),
        r"low_dim_obs.pkl: frame 0: expected an Observation, found a dict",
    ),
    "no observations": (lambda f: write_demo(f / "low_dim_obs.pkl", []), r"list of observations, found an empty one"),
    "observations of none": (
        lambda f: write_demo(f / "low_dim_obs.pkl", [Observation()] * LENGTH),
        r"gripper_open of frame 0: expected 1 numbers, found NoneType None",
    ),
    "a frame too few": (demo(length=LENGTH - 1), r"expected 12 observations, as many as .* pictures .*, found 11"),
    "a short pose": (
        demo({"gripper_pose": np.zeros(6)}),
        r"gripper_pose of frame 7: expected 7 numbers, found an array float64 \(6,\)",
    ),
    "a pose of text": (demo({"gripper_pose": "here"}), r"gripper_pose of frame 7: .* found str 'here'"),
    "no velocities": (
        demo({"joint_velocities": None}),
        r"joint_velocities of frame 7: expected 7 numbers, found None",
    ),
    "NaN": (
        demo({"joint_positions": np.full(7, np.nan)}),
        r"joint_positions of frame 7: expected finite numbers, found \[nan",
    ),
    "half an open gripper": (demo({"gripper_open": 0.5}), r"gripper_open of frame 7: expected 0 .* found 0.5"),
    "no rotation": (
        demo({"gripper_pose": np.zeros(7)}),
        r"gripper_pose of frame 7: expected a quaternion of length 1, found 0",
    ),
    "no descriptions": (
        lambda f: (f / "variation_descriptions.pkl").unlink(),
        r"variation_descriptions.pkl is missing",
    ),
    "an empty description": (
        dump("variation_descriptions.pkl", [" "]),
        r"variation_descriptions.pkl: expected a list of sentences, found list \[' '\]",
    ),
    "a number for descriptions": (
        dump("variation_descriptions.pkl", 5),
        r"variation_descriptions.pkl: expected a list of sentences, found int 5",
    ),
    "a missing picture": (lambda f: (f / "front_rgb" / "4.png").unlink(), r"front_rgb: picture 4 is missing, of 12"),
    "a missing picture of the other camera": (
        lambda f: (f / "wrist_rgb" / "4.png").unlink(),
        r"wrist_rgb/4.png is missing",
    ),
    "no pictures": (lambda f: shutil.rmtree(f / "front_rgb"), r"front_rgb cannot be read: No such file"),
    "a picture cut short": (lambda f: cut(f / "wrist_rgb" / "4.png"), r"wrist_rgb/4.png is not a picture"),
    "no picture": (lambda f: (f / "wrist_rgb" / "4.png").write_text("x"), r"wrist_rgb/4.png is not a picture"),
    "a picture of another size": (
        lambda f: Image.fromarray(picture(4, 8)).save(f / "wrist_rgb" / "4.png"),
        r"wrist_rgb/4.png: expected a picture \(16, 16, 3\) as before it, found \(8, 8, 3\)",
    ),
    "pictures of another size": (
        lambda f: [Image.fromarray(picture(n, 8)).save(f / "wrist_rgb" / f"{n}.png") for n in range(LENGTH)],
        r"pictures of wrist .*: expected uint8 \(12, 16, 16, 3\) as in the first episode, found uint8 \(12, 8, 8, 3\)",
    ),
}


@pytest.mark.parametrize("case", RLBENCH)
def test_rlbench(demos, case, tmp_path, monkeypatch):
    root = shutil.copytree(demos, tmp_path / "train")
    damage, message = RLBENCH[case]
    damage(root / "close_jar" / "all_variations" / "episodes" / "episode1")
    check(root, RLBenchDataset, tmp_path, monkeypatch, message)


# -- Bridge -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    root = tmp_path_factory.mktemp("bridge")
    for number in range(2):
        write_trajectory(root / "put_pot/00/2022-01-01_00-00-00/raw/traj_group0" / f"traj{number}")
    return root


BRIDGE = {
    "no observations": (lambda f: (f / "obs_dict.pkl").unlink(), r"obs_dict.pkl is missing"),
    "no actions": (lambda f: (f / "policy_out.pkl").unlink(), r"policy_out.pkl is missing"),
    "observations cut short": (lambda f: cut(f / "obs_dict.pkl"), r"obs_dict.pkl cannot be read \(cut short"),
    "code": (dump("policy_out.pkl", [Code()]), r"policy_out.pkl asks for \w+.open: .* refused"),
    "no full_state": (
        dump("obs_dict.pkl", {"state": 1}),
        r"expected a dictionary with the key full_state, found .*sta",
    ),
    "a list of observations": (
        dump("obs_dict.pkl", [1]),
        r"expected a dictionary with the key full_state, found list",
    ),
    "a state too few": (
        dump("obs_dict.pkl", {"full_state": np.zeros((8, 7))}),
        r"full_state: expected shape \(9, 7\), as there are pictures, found \(8, 7\)",
    ),
    "states of text": (dump("obs_dict.pkl", {"full_state": ["a"]}), r"full_state: expected 9 rows of 7 numbers"),
    "NaN": (
        dump("obs_dict.pkl", {"full_state": np.full((9, 7), np.nan)}),
        r"observation.state \(episode 1\): expected finite numbers, found \[nan.* in frame 0",
    ),
    "an action too few": (
        dump("policy_out.pkl", [{"actions": np.zeros(7)}] * 7),
        r"actions: expected shape \(8, 7\), as there are pictures, found \(7, 7\)",
    ),
    "a step without action": (
        dump("policy_out.pkl", [{"actions": np.zeros(7)}, {"policy_type": "x"}]),
        r"step 1: expected the key actions, found \['policy_type'\]",
    ),
    "a missing picture": (lambda f: (f / "images0" / "im_3.jpg").unlink(), r"images0: picture 3 is missing, of 9"),
    "one picture": (
        lambda f: [(f / "images0" / f"im_{n}.jpg").unlink() for n in range(1, 9)],
        r"1 pictures are too few for a step",
    ),
    "a picture cut short": (lambda f: cut(f / "images0" / "im_3.jpg"), r"im_3.jpg is not a picture"),
    "a sentence of bytes": (lambda f: (f / "lang.txt").write_bytes(b"\xff\xfe\xfa"), r"lang.txt is not text"),
}


@pytest.mark.parametrize("case", BRIDGE)
def test_bridge(trajectories, case, tmp_path, monkeypatch):
    root = shutil.copytree(trajectories, tmp_path / "raw_data")
    damage, message = BRIDGE[case]
    damage(root / "put_pot/00/2022-01-01_00-00-00/raw/traj_group0/traj1")
    check(root, BridgeDataset, tmp_path, monkeypatch, message)


# -- HDF5 -------------------------------------------------------------------------------------------------------------


def replaced(key, value):
    """Another array (None: none) under a key of the second demonstration."""

    def damage(path):
        import h5py

        with h5py.File(path, "a") as file:
            del file[f"data/demo_1/{key.removesuffix('/inside')}"]
            if value is not None:
                file[f"data/demo_1/{key}"] = value

    return damage


def unwritten(path):
    import h5py

    with h5py.File(path, "a") as file:
        del file["data/demo_1/obs/agentview_rgb"]
        array = file.create_dataset("data/demo_1/obs/agentview_rgb", (9, 16, 16, 3), "u1", chunks=(1, 16, 16, 3))
        array[:5] = 7


def elsewhere(path):
    import h5py

    with h5py.File(path.parent / "other.bin", "w") as file:
        file["secret"] = np.zeros((9, 7))
    with h5py.File(path, "a") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = h5py.ExternalLink("other.bin", "secret")


def flipped(path):
    """A byte inside of compressed pictures."""
    import h5py

    with h5py.File(path, "a") as file:
        del file["data/demo_1/obs/agentview_rgb"]
        noise = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), np.uint8)
        array = file.create_dataset("data/demo_1/obs/agentview_rgb", data=noise, chunks=(1, 16, 16, 3), compression=4)
        place = array.id.get_chunk_info(3).byte_offset + 40
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)


HDF5 = {
    "no actions": (replaced("actions", None), r"data/demo_1/actions is missing or no array; found there: \['dones'"),
    "a group for actions": (replaced("actions/inside", np.zeros(3)), r"data/demo_1/actions is missing or no array"),
    "text for actions": (replaced("actions", ["a", "b"]), r"demo_1/actions: expected an array of numbers, found obj"),
    "one action": (replaced("actions", np.float64(1)), r"demo_1/actions: expected an array of numbers, found .* \(\)"),
    "no steps": (replaced("actions", np.zeros((0, 7))), r"demo_1 has no frames"),
    "an action too few": (
        replaced("actions", np.zeros((8, 7))),
        r"obs/agentview_rgb: expected 8 pictures, one for each action, found 9",
    ),
    "actions of six numbers": (
        replaced("actions", np.zeros((9, 6))),
        r"action \(episode 1\): expected shape \(9, 7\), found \(9, 6\)",
    ),
    "NaN": (
        replaced("actions", np.full((9, 7), np.nan)),
        r"action \(episode 1\): expected finite numbers, found \[nan",
    ),
    "actions in metres": (
        replaced("actions", np.full((9, 7), 3.0)),
        r"action \(episode 1\): expected actions within -1 and 1, found \[3.0",
    ),
    "no states": (replaced("obs/ee_states", None), r"obs/ee_states is missing or no array; found there: \['agentview"),
    "a state too few": (
        replaced("obs/gripper_states", np.zeros((8, 2))),
        r"data/demo_1/obs: expected rows of numbers of one length, found the shapes \[\(9, 6\), \(8, 2\)\]",
    ),
    "no pictures": (replaced("obs/agentview_rgb", None), r"obs/agentview_rgb is missing or no array"),
    "pictures of floats": (
        replaced("obs/agentview_rgb", np.zeros((9, 16, 16, 3))),
        r"obs/agentview_rgb: expected pictures uint8 \(T, H, W, 3\), found float64",
    ),
    "grey pictures": (
        replaced("obs/agentview_rgb", np.zeros((9, 16, 16), np.uint8)),
        r"obs/agentview_rgb: expected pictures uint8 \(T, H, W, 3\), found uint8 \(9, 16, 16\)",
    ),
    "pictures of another size": (
        replaced("obs/eye_in_hand_rgb", np.zeros((9, 8, 8, 3), np.uint8)),
        r"pictures of eye_in_hand \(episode 1\): expected uint8 \(9, 16, 16, 3\) .*, found uint8 \(9, 8, 8, 3\)",
    ),
    "pictures that were never written": (
        unwritten,
        r"agentview_rgb: of \(9, 16, 16, 3\) only a part was ever written",
    ),
    "a flipped byte": (flipped, r"data/demo_1/obs/agentview_rgb cannot be read \(damaged\)"),
    "a link to another file": (elsewhere, r"data/demo_1/actions points into another file"),
}


@pytest.mark.parametrize("case", HDF5)
def test_hdf5(case, tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    path = write_libero(tmp_path / "pick_demo.hdf5")
    damage, message = HDF5[case]
    damage(path)
    check(path, HDF5Dataset, tmp_path, monkeypatch, message)


def attribute(name, value):
    def damage(path):
        import h5py

        with h5py.File(path, "a") as file:
            file["data"].attrs[name] = value

    return damage


def without(key):
    def damage(path):
        import h5py

        with h5py.File(path, "a") as file:
            del file[key]

    return damage


FILES = {
    "cut short": (cut, r"is not an HDF5 file, or cut short or damaged: .*truncated"),
    "not HDF5": (lambda p: p.write_bytes(b"hello" * 99), r"is not an HDF5 file, or cut short or damaged"),
    "empty": (lambda p: p.write_bytes(b""), r"is not an HDF5 file, or cut short or damaged"),
    "no data": (without("data"), r"expected the group data, found nothing"),
    "no demonstrations": (
        lambda p: [without(f"data/demo_{n}")(p) for n in (0, 1)],
        r"expected data/demo_0, ..., found",
    ),
    "states alone": (
        lambda p: [without(f"data/demo_{n}/obs")(p) for n in (0, 1)],
        r"data/demo_0/obs is missing: .* dataset_states_to_obs.py",
    ),
    "attributes that are no JSON": (attribute("env_args", "{"), r"the attribute env_args of data is not JSON"),
    "a list for attributes": (attribute("problem_info", "[1]"), r"problem_info of data: expected a JSON object"),
    "a sentence of numbers": (
        attribute("problem_info", '{"language_instruction": 5}'),
        r"problem_info: expected a sentence as language_instruction, found 5",
    ),
    "no frequency": (
        attribute("env_args", '{"env_kwargs": {"control_freq": 0}}'),
        r"env_args: expected a control_freq above 0, found 0",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_hdf5_files(case, tmp_path, monkeypatch):
    """A file that cannot be used at all is skipped as one."""
    pytest.importorskip("h5py")
    root = tmp_path / "libero"
    write_libero(root / "first_demo.hdf5", lengths=(5,))
    path = write_libero(root / "second_demo.hdf5")
    damage, message = FILES[case]
    damage(path)
    with pytest.raises(InputError, match=message) as error:
        HDF5Dataset(root, progress=False)
    assert str(path) in str(error.value)
    dataset = HDF5Dataset(root, progress=False, skip_bad=True)
    assert (dataset.num_episodes, [s["episode"] for s in dataset.skipped]) == (1, ["second_demo.hdf5"])


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [RLBenchDataset, BridgeDataset, HDF5Dataset])
def test_folders_that_hold_nothing_of_the_kind(reader, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        reader(tmp_path / "nowhere", progress=False)
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(InputError, match=r"holds no (RLBench demonstrations|trajectories of Bridge V2|HDF5 files)"):
        reader(tmp_path, progress=False)


def test_if_every_episode_is_bad_the_first_reason_is_said(demos, tmp_path):
    root = shutil.copytree(demos, tmp_path / "train")
    for path in root.rglob("low_dim_obs.pkl"):
        cut(path)
    with pytest.raises(
        InputError, match=r"none of the 2 episodes of .* can be used; the first: .*low_dim_obs.pkl cann"
    ):
        RLBenchDataset(root, progress=False, skip_bad=True)
