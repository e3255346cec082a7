"""Small robot datasets in the real formats: RLBench demonstrations, raw Bridge V2, HDF5 of robomimic and LIBERO."""

import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
from PIL import Image


SIZE = 16
LENGTH = 12  # of an RLBench demonstration
JAR = ["close the red jar", "screw on the red lid"]


def picture(number: int, size: int = SIZE) -> np.ndarray:
    """Its top is bright and its bottom is dark, and a square says which it is."""
    y, x = np.mgrid[:size, :size]
    image = np.stack([250 - y * 200 // size, x * 100 // size, np.full_like(x, number * 9 % 250)], -1)
    image[:4, (number * 2) % (size - 3) :][:, :4] = 255
    return image.astype(np.uint8)


# -- RLBench ----------------------------------------------------------------------------------------------------------


class Demo:
    pass


class Observation:
    pass


def observation(frame: int, **changes) -> Observation:
    """As the dataset generator leaves it: no pictures, numpy float64."""
    rng = np.random.default_rng(frame)
    quaternion = rng.normal(size=4)
    made = Observation()
    made.__dict__ = {
        "front_rgb": None,
        "gripper_open": 1.0 if frame < 6 else 0.0,
        "gripper_pose": np.concatenate([rng.uniform(0, 1, 3), quaternion / np.linalg.norm(quaternion)]),
        "gripper_joint_positions": np.array([0.04, 0.04]) if frame < 6 else np.array([0.01, 0.01]),
        "joint_velocities": np.full(7, 0.5 if frame != 3 else 0.0),
        "joint_positions": rng.uniform(-1, 1, 7),
        "gripper_touch_forces": None,
        "misc": {"front_camera_extrinsics": np.eye(4), "variation_index": 3, "front_camera_near": np.float32(0.01)},
        **changes,
    }
    return made


def write_demo(path: Path, observations, protocol: int = 4, kind=Demo) -> None:
    """Under the names that RLBench's classes have, which are not there when it is read."""
    demo = kind()
    demo._observations, demo.random_seed = observations, np.random.RandomState(3).get_state()
    demo.variation_number = 3
    modules = {"rlbench": {}, "rlbench.demo": {"Demo": Demo}, "rlbench.backend": {}}
    modules["rlbench.backend.observation"] = {"Observation": Observation}
    before = {name: sys.modules.get(name) for name in modules}
    homes = {cls: cls.__module__ for cls in (Demo, Observation)}
    try:
        for name, content in modules.items():
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__dict__.update(content)
            for cls in content.values():
                cls.__module__ = name
        path.write_bytes(pickle.dumps(demo, protocol))
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
        for cls, home in homes.items():
            cls.__module__ = home


def write_episode(folder: Path, cameras=("front", "wrist"), length: int = LENGTH, descriptions=JAR, **options) -> Path:
    for camera in cameras:
        (folder / f"{camera}_rgb").mkdir(parents=True)
        for frame in range(length):
            Image.fromarray(picture(frame)).save(folder / f"{camera}_rgb" / f"{frame}.png")
    write_demo(folder / "low_dim_obs.pkl", [observation(frame) for frame in range(length)], **options)
    if descriptions:
        (folder / "variation_descriptions.pkl").write_bytes(pickle.dumps(list(descriptions)))
        (folder / "variation_number.pkl").write_bytes(pickle.dumps(3))
    return folder


def write_rlbench(root: Path, episodes: int = 3, **options) -> Path:
    """Two tasks in PerAct's layout, `episodes` demonstrations each."""
    for task, sentences in (("close_jar", JAR), ("open_drawer", ["open the top drawer"])):
        for number in range(episodes):
            folder = root / task / "all_variations" / "episodes" / f"episode{number}"
            write_episode(folder, descriptions=sentences, **options)
    return root


# -- Bridge V2 --------------------------------------------------------------------------------------------------------


def write_trajectory(
    folder: Path, steps: int = 8, cameras=("images0", "images1"), sentence: str | None = "put the pot on the stove"
) -> Path:
    """`steps` actions, one observation more; states and actions say which they are."""
    for camera in cameras:
        (folder / camera).mkdir(parents=True)
        for frame in range(steps + 1):
            Image.fromarray(picture(frame)).save(folder / camera / f"im_{frame}.jpg", quality=95)
    state = np.arange(steps + 1)[:, None] + np.arange(7) / 10
    (folder / "obs_dict.pkl").write_bytes(
        pickle.dumps({"full_state": state, "time_stamp": [0.2 * frame for frame in range(steps + 1)]})
    )
    actions = [{"actions": np.full(7, step / 100), "policy_type": "VRTeleopPolicy"} for step in range(steps)]
    (folder / "policy_out.pkl").write_bytes(pickle.dumps(actions))
    (folder / "agent_data.pkl").write_bytes(pickle.dumps({"term_t": steps}))
    if sentence:
        (folder / "lang.txt").write_text(f"{sentence}\nconfidence: 0.9\n")
    return folder


def write_bridge(root: Path) -> Path:
    """Three trajectories: described; not described; recorded when the camera lagged."""
    task = root / "rss" / "toykitchen2" / "put_pot_on_stove" / "00"
    write_trajectory(task / "2022-01-01_00-00-00" / "raw" / "traj_group0" / "traj0")
    write_trajectory(task / "2022-01-01_00-00-00" / "raw" / "traj_group0" / "traj1", steps=5, sentence=None)
    write_trajectory(task / "2021-07-01_00-00-00" / "raw" / "traj_group0" / "traj0", cameras=("images0",))
    return root


# -- HDF5 -------------------------------------------------------------------------------------------------------------


def write_libero(path: Path, lengths=(7, 9), sentence: str | None = "pick up the bowl", **changes) -> Path:
    """As LIBERO's create_dataset.py: pictures upside down."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Libero_Tabletop", "env_kwargs": {"control_freq": 20}})
        if sentence:
            data.attrs["problem_info"] = json.dumps({"language_instruction": [sentence]})
        for number, length in enumerate(lengths):
            rng = np.random.default_rng(number)
            arrays = {
                "actions": rng.uniform(-1, 1, (length, 7)),
                "dones": np.zeros(length, np.uint8),
                "obs/ee_states": rng.normal(size=(length, 6)),
                "obs/gripper_states": rng.normal(size=(length, 2)),
                "obs/joint_states": rng.normal(size=(length, 7)),
                "obs/agentview_rgb": np.stack([picture(frame)[::-1] for frame in range(length)]),
                "obs/eye_in_hand_rgb": np.stack([picture(frame + 50)[::-1] for frame in range(length)]),
                **changes,
            }
            for key, value in arrays.items():
                if value is not None:
                    data.create_dataset(f"demo_{number}/{key}", data=value)
            data[f"demo_{number}"].attrs["num_samples"] = length
    return path


def write_robomimic(path: Path, lengths=(7, 9, 5), arms: int = 1) -> Path:
    """As robomimic's dataset_states_to_obs.py: pictures upright, compressed in chunks."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "PickPlaceCan", "env_kwargs": {"control_freq": 20}})
        data.attrs["total"] = sum(lengths)
        for place, length in enumerate(lengths):
            number = place + 9 if place else 0  # demo_10 comes after demo_9's like
            rng = np.random.default_rng(number)
            group = data.create_group(f"demo_{number}")
            group.create_dataset("actions", data=rng.uniform(-1, 1, (length, 7 * arms)))
            for arm in range(arms):
                group.create_dataset(f"obs/robot{arm}_eef_pos", data=rng.normal(size=(length, 3)))
                group.create_dataset(f"obs/robot{arm}_eef_quat", data=rng.normal(size=(length, 4)))
                group.create_dataset(f"obs/robot{arm}_gripper_qpos", data=rng.normal(size=(length, 2)))
                group.create_dataset(f"obs/robot{arm}_joint_pos", data=rng.normal(size=(length, 7)))
            pictures = np.stack([picture(frame) for frame in range(length)])
            group.create_dataset("obs/agentview_image", data=pictures, chunks=(1, SIZE, SIZE, 3), compression="gzip")
    return path


def trajectory_arrays(steps: int = 8, cameras=("images0", "images1"), **changes) -> dict:
    """A trajectory as Bridge's raw-to-numpy script leaves it; states and actions say which step they are."""
    pictures = [picture(frame) for frame in range(steps + 1)]
    rows = list(np.arange(steps + 1)[:, None] + np.arange(7) / 10)
    every = [
        {**dict.fromkeys(cameras, pictures[frame]), "state": rows[frame], "time_stamp": 0.2 * frame}
        for frame in range(steps + 1)
    ]
    actions = [np.full(7, step / 100) for step in range(steps)]
    made = {"observations": every[:-1], "next_observations": every[1:], "actions": actions, "terminals": [0] * steps}
    return {**made, **changes}


def write_bridge_npy(root: Path, split: str = "train", trajectories=None, task: str = "put_pot_on_stove") -> Path:
    """Two trajectories of one task (the second has a sentence) as a pickled array."""
    if trajectories is None:
        trajectories = [trajectory_arrays(), trajectory_arrays(5, language=["put the pot on the stove"])]
    array = np.empty(len(trajectories), object)
    array[:] = trajectories
    folder = root / "rss" / "toykitchen2" / task / "00" / split
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "out.npy", array)
    return root


def write_bridge_tfrecord(root: Path, split: str = "train", examples=None) -> Path:
    """The same trajectories as TFRecord: `examples` are the records' bytes."""
    if examples is None:
        examples = [example(trajectory_tensors(steps)) for steps in (8, 5)]
    folder = root / "rss" / "toykitchen2" / "put_pot_on_stove" / "00" / split
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "out.tfrecord").write_bytes(b"".join(map(record, examples)))
    return root


def trajectory_tensors(steps: int) -> dict[str, np.ndarray]:
    made = trajectory_arrays(steps)
    tensors = {}
    for part in ("observations", "next_observations"):
        tensors[f"{part}/images0"] = np.array([step["images0"] for step in made[part]], np.uint8)
        tensors[f"{part}/state"] = np.array([step["state"] for step in made[part]], np.float32)
    ends = np.zeros(steps, bool)
    return tensors | {"actions": np.array(made["actions"], np.float32), "terminals": ends, "truncates": ends}


def record(data: bytes) -> bytes:
    """One record of a TFRecord file, with sums taken bit by bit."""

    def masked(part: bytes) -> bytes:
        state = 0xFFFFFFFF
        for byte in part:
            state ^= byte
            for _ in range(8):
                state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
        state ^= 0xFFFFFFFF
        return (((state >> 15 | state << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    length = len(data).to_bytes(8, "little")
    return length + masked(length) + data + masked(data)


def example(tensors: dict[str, np.ndarray]) -> bytes:
    """A `tf.train.Example` of serialized tensors, as `tf.io.serialize_tensor` writes them."""

    def number(value: int) -> bytes:
        parts = []
        while value > 127:
            parts.append(value & 127 | 128)
            value >>= 7
        return bytes([*parts, value])

    def field(place: int, value) -> bytes:
        if isinstance(value, int):
            return number(place << 3) + number(value)
        return number(place << 3 | 2) + number(len(value)) + value

    kinds = {"float32": 1, "uint8": 4, "bool": 10}
    entries = b""
    for name, array in tensors.items():
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        tensor = field(1, kinds[str(array.dtype)]) + field(2, shape) + field(4, array.tobytes())
        entries += field(1, field(1, name.encode()) + field(2, field(1, field(1, tensor))))
    return field(1, entries)
