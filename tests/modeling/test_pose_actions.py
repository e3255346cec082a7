import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vpdd.action_bins import ActionBins
from hf_vpdd.modeling.vpdd.pose_actions import (
    euler_to_quaternion,
    fit_pose_bins,
    pose_to_vector,
    quaternion_to_euler,
    vector_to_pose,
)
from hf_vpdd.modeling.vpdd.processing_vpdd import VPDDProcessor, train_tokenizer


def rotation(quaternion) -> np.ndarray:
    """The matrix of a quaternion [x, y, z, w], straight from q v q*."""
    x, y, z, w = (float(part) for part in quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def about_fixed_axes(angles) -> np.ndarray:
    """The matrix of turning about x, then y, then z, angles in degrees."""
    (a, b, c) = (math.radians(float(angle)) for angle in angles)
    about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    about_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    about_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def poses(count: int = 400, seed: int = 0) -> np.ndarray:
    """float32 (N, 8) within the bounds."""
    rng = np.random.default_rng(seed)
    quaternion = rng.normal(size=(count, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    position = rng.uniform([-0.3, -0.5, 0.6], [0.7, 0.5, 1.6], (count, 3))
    return np.concatenate([position, quaternion, rng.integers(0, 2, (count, 1))], axis=1).astype(np.float32)


def between(first, second) -> torch.Tensor:
    """The angle between two rotations, degrees."""
    dot = (first.double() * second.double()).sum(-1).abs() / first.double().norm(dim=-1) / second.double().norm(dim=-1)
    return torch.rad2deg(2 * torch.acos(dot.clamp(max=1)))


@given(st.tuples(*[st.floats(-540, 540) for _ in range(3)]))
@settings(max_examples=150, deadline=None)
def test_a_quaternion_turns_as_its_angles_say(angles):
    angles = torch.tensor(angles, dtype=torch.float64)
    quaternion = euler_to_quaternion(angles)
    assert quaternion.norm().item() == pytest.approx(1) and quaternion[3] >= 0
    np.testing.assert_allclose(rotation(quaternion), about_fixed_axes(angles), atol=1e-9)
    for sign in (1, -1):  # q and -q are one rotation
        back = quaternion_to_euler(sign * quaternion)
        assert (back >= -180).all() and (back < 180).all() and abs(back[1]) <= 90
        np.testing.assert_allclose(about_fixed_axes(back), rotation(quaternion), atol=1e-7)


@given(
    st.sampled_from([90.0, -90.0]),
    st.floats(-180, 180),
    st.floats(-180, 180),
    st.sampled_from([0.0, 1e-9, 1e-6, 1e-4, 0.01]),
)
@settings(max_examples=150, deadline=None)
def test_gimbal_lock_loses_nothing(middle, first, third, off):
    """Where the outer angles are not separately defined, the rotation still is."""
    angles = torch.tensor([first, middle - math.copysign(off, middle), third], dtype=torch.float64)
    back = quaternion_to_euler(euler_to_quaternion(angles))
    np.testing.assert_allclose(about_fixed_axes(back), about_fixed_axes(angles), atol=5e-7)
    if off == 0:
        assert back[2] == 0


def test_angles_are_scipys():
    rotations = pytest.importorskip("scipy.spatial.transform")
    quaternion = torch.from_numpy(poses(500)[:, 3:7]).double()
    expected = rotations.Rotation.from_quat(quaternion.numpy()).as_euler("xyz", degrees=True)
    np.testing.assert_allclose(quaternion_to_euler(quaternion).numpy(), expected, atol=1e-6)


def test_poses_survive_the_way_through_bins():
    actions = torch.from_numpy(poses())
    entries = fit_pose_bins(actions, 360)
    bins = ActionBins(entries, 360)
    assert bins.valid_bins.tolist() == [360, 360, 360, 360, 360, 360, 2]
    ids = bins.encode(pose_to_vector(actions))
    decoded = vector_to_pose(bins.decode(ids))
    assert decoded.dtype == torch.float32 and decoded.shape == actions.shape
    assert (decoded[:, :3] - actions[:, :3]).abs().max() < 0.01
    # half a degree in each of three angles
    assert between(decoded[:, 3:7], actions[:, 3:7]).max() < 1.5
    assert torch.equal(decoded[:, 7], actions[:, 7])
    assert torch.allclose(decoded[:, 3:7].norm(dim=1), torch.ones(len(decoded)), atol=1e-6)
    minus = torch.cat([actions[:, :3], -actions[:, 3:7], actions[:, 7:]], dim=1)
    assert torch.equal(bins.encode(pose_to_vector(minus)), ids)


def test_one_degree_a_bin_and_360_is_0():
    bins = ActionBins(fit_pose_bins(poses(), 360), 360)
    vector = torch.tensor([[0.2, 0.0, 1.0, angle, 0.0, 0.0, 1.0] for angle in (-180, -179.4, 0, 179.4, 179.6, 180)])
    assert bins.encode(vector)[:, 3].tolist() == [0, 1, 180, 359, 0, 0]
    assert bins.encode(vector)[:, 4:].tolist() == [[180, 180, 1]] * 6
    vector[:, 3] += 720
    assert bins.encode(vector)[:, 3].tolist() == [0, 1, 180, 359, 0, 0]
    ids = torch.arange(360)[:, None].expand(360, 7)
    assert torch.equal(bins.encode(bins.decode(ids))[:, :6], ids[:, :6])
    vector[0, 4] = float("nan")
    with pytest.raises(InputError, match="dimension 4"):
        bins.encode(vector)


def test_fewer_bins_share_the_circle():
    entries = fit_pose_bins(poses(), 72)
    bins = ActionBins(entries, 72)
    assert entries[3]["decode"][1] - entries[3]["decode"][0] == 5
    vector = torch.tensor([[0.2, 0.0, 1.0, 177.4, 177.6, 0.0, 1.0]])
    assert bins.encode(vector)[0, 3:5].tolist() == [71, 0]


def processor(**options) -> VPDDProcessor:
    actions, rng = poses(), np.random.default_rng(1)
    return VPDDProcessor.from_dataset_stats(
        actions,
        rng.normal(size=(50, 4)),
        train_tokenizer(["close the red jar"], 300),
        num_action_bins=360,
        image_size=16,
        chunk_size=3,
        **{"action_layout": "pose", **options},
    )


def test_a_processor_of_poses_is_saved_and_loaded(tmp_path):
    first = processor()
    assert (first.action_dim, first.robot_action_dim) == (7, 8)
    actions = poses(6, seed=3).reshape(2, 3, 8)
    ids = first.encode_actions(actions)
    assert ids.shape == (2, 3, 7) and ids.dtype == torch.int64
    first.save_pretrained(tmp_path)
    again = VPDDProcessor.from_pretrained(tmp_path)
    assert again.action_layout == "pose" and torch.equal(again.encode_actions(actions), ids)
    decoded = again.post_process_actions(ids)
    assert decoded.shape == (2, 3, 8)
    assert torch.equal(again.encode_actions(decoded), ids)
    images = np.zeros((2, 1, 16, 16, 3), np.uint8)
    batch = again([{"corner2": one} for one in images], actions=actions)
    assert torch.equal(batch["actions"], ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:, :7], "x y z qx qy qz qw"),
        (lambda a: a * 0, "length 0"),
        (lambda a: np.where(np.arange(8) == 7, 0.5, a), "gripper_open"),
        (lambda a: a + np.eye(8, dtype=np.float32)[0], "dimension 0"),
    ],
)
def test_wrong_poses_are_errors(change, message):
    with pytest.raises(InputError, match=message):
        fit_pose_bins(change(poses()))


def test_a_processor_refuses_what_has_no_meaning():
    with pytest.raises(InputError, match="diffusion"):
        processor(action_objective="regression")
    with pytest.raises(InputError, match="action_layout"):
        processor(action_layout="quaternion")
    with pytest.raises(InputError, match="length"):
        processor().encode_actions(np.zeros((1, 3, 8)))
    assert processor().encode_actions(np.zeros((1, 3, 8)), check=False).shape == (1, 3, 7)
