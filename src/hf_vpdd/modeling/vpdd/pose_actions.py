"""Keyframe poses of an arm as seven numbers that can be cut into bins, and back (VPDD on RLBench, spec §4.3).

An action in robot units is RLBench's own: [x, y, z, qx, qy, qz, qw, gripper_open], metres in the world's frame, a unit
quaternion with the real part last, and 0 (closed) or 1 (open). The network's tokens are seven: x, y, z, three Euler
angles and the gripper. The angles turn about the fixed axes x, then y, then z (SciPy's "xyz"), in degrees, the first
and the last in [-180, 180), the middle one in [-90, 90].
"""

import math

import numpy as np
import torch

from ...errors import InputError
from .action_bins import fit_action_bins


POSE_SIZE = 8  # of an action in robot units
VECTOR_SIZE = 7  # of the same action as numbers to be binned
# metres; the space in which PerAct and the released code look for positions
POSITION_LOW, POSITION_HIGH = (-0.3, -0.5, 0.6), (0.7, 0.5, 1.6)
MAX_ANGLE_BINS = 360  # one degree each

# How near (radians) to +-90 degrees the middle angle counts as gimbal lock: only the sum or the difference of the two
# others is defined there.
_LOCK = 1e-7


def quaternion_to_euler(quaternion: torch.Tensor) -> torch.Tensor:
    """(..., 4) [x, y, z, w], any non-zero length, -> (..., 3) Euler angles in degrees, same dtype.

    q and -q give the same angles. At gimbal lock the third angle is 0, as in SciPy.
    """
    x, y, z, w = quaternion.double().unbind(-1)
    # The half sum and half difference of the outer angles: exact near the lock, where the usual formulas cancel.
    total, difference = torch.atan2(x + z, w - y), torch.atan2(z - x, w + y)
    to_upper, to_lower = torch.hypot(w - y, x + z), torch.hypot(w + y, z - x)
    middle = 2 * torch.atan2(to_lower, to_upper) - math.pi / 2
    first, third = total - difference, total + difference
    at_upper, at_lower = middle > math.pi / 2 - _LOCK, middle < -math.pi / 2 + _LOCK
    first = torch.where(at_upper, -2 * difference, torch.where(at_lower, 2 * total, first))
    third = torch.where(at_upper | at_lower, 0.0, third)
    angles = torch.rad2deg(torch.stack((first, middle, third), dim=-1))
    angles[..., ::2] = torch.where(angles[..., ::2] < 180, angles[..., ::2], angles[..., ::2] - 360)
    angles[..., ::2] = torch.where(angles[..., ::2] >= -180, angles[..., ::2], angles[..., ::2] + 360)
    return angles.to(quaternion.dtype)


def euler_to_quaternion(angles: torch.Tensor) -> torch.Tensor:
    """(..., 3) Euler angles in degrees -> (..., 4) unit quaternion [x, y, z, w] with w >= 0, same dtype."""
    half = torch.deg2rad(angles.double()) / 2
    (sx, sy, sz), (cx, cy, cz) = half.sin().unbind(-1), half.cos().unbind(-1)
    quaternion = torch.stack(
        (
            sx * cy * cz - cx * sy * sz,
            cx * sy * cz + sx * cy * sz,
            cx * cy * sz - sx * sy * cz,
            cx * cy * cz + sx * sy * sz,
        ),
        dim=-1,
    )
    quaternion = torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
    return quaternion.to(angles.dtype)


def pose_to_vector(actions: torch.Tensor, check: bool = True) -> torch.Tensor:
    """(..., 8) poses -> float32 (..., 7) [x, y, z, three angles in degrees, gripper_open].

    Raises:
        InputError: The last dimension is not 8; or, with `check`, a quaternion is not of length 1 (within 1 %), as the
            zeros of a padded row are not.
    """
    if actions.shape[-1] != POSE_SIZE:
        raise InputError(
            f"actions: a pose has {POSE_SIZE} numbers, x y z qx qy qz qw gripper_open; got shape "
            f"{tuple(actions.shape)}."
        )
    actions = actions.float()
    quaternion = actions[..., 3:7]
    if check:
        length = quaternion.norm(dim=-1).reshape(-1)
        wrong = ~((length - 1).abs() < 1e-2)  # NaN compares false
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"actions: the quaternion of row {row} has length {float(length[row]):g}, not 1. Leave padded rows "
                "out, and give the order qx qy qz qw."
            )
    return torch.cat((actions[..., :3], quaternion_to_euler(quaternion), actions[..., 7:]), dim=-1)


def vector_to_pose(vectors: torch.Tensor) -> torch.Tensor:
    """(..., 7) -> float32 (..., 8) poses; the inverse of `pose_to_vector` but for the sign of the quaternion."""
    if vectors.shape[-1] != VECTOR_SIZE:
        raise InputError(f"actions: expected {VECTOR_SIZE} numbers per pose, got shape {tuple(vectors.shape)}.")
    vectors = vectors.float()
    return torch.cat((vectors[..., :3], euler_to_quaternion(vectors[..., 3:6]), vectors[..., 6:]), dim=-1)


def fit_pose_bins(actions, num_bins: int = 360, low=POSITION_LOW, high=POSITION_HIGH) -> list[dict]:
    """The bins of the seven token dimensions, fitted to keyframe poses (N, 8).

    Positions get equal-mass bins per axis within [low, high] metres (to bin the positions normalised to [-1, 1] is the
    same thing), angles equal bins around the circle (`num_bins` of them, at most one per degree), the gripper two.

    Args:
        actions: (N, 8) targets of the demonstrations, padding left out.
        num_bins: Width of the vocabulary; 360 in the released code.
        low, high: (3,) metres; positions outside of them are an error.

    Returns:
        As `fit_action_bins`; angles have a `period` of 360.
    """
    actions = np.asarray(actions, dtype=np.float64)
    if actions.ndim != 2 or len(actions) == 0:
        raise InputError(f"actions: expected a non-empty array (N, {POSE_SIZE}) to fit bins to, got {actions.shape}.")
    vectors = pose_to_vector(torch.from_numpy(actions)).numpy()
    if not np.isin(vectors[:, 6], (0.0, 1.0)).all():
        raise InputError("actions: gripper_open (the last number) must be 0 or 1 in every keyframe.")
    angles = min(num_bins, MAX_ANGLE_BINS)
    step = 360 / angles
    centres = -180 + step * np.arange(angles)
    rotation = {
        "decode": centres.tolist(),
        "edges": ((centres[1:] + centres[:-1]) / 2).tolist(),
        "low": -180.0,
        "high": 180.0,
        "period": 360.0,
    }
    gripper = {"decode": [0.0, 1.0], "edges": [0.5], "low": 0.0, "high": 1.0}
    return [
        *fit_action_bins(vectors[:, :3], num_bins, low, high, atoms=False),
        *(dict(rotation) for _ in range(3)),
        gripper,
    ]
