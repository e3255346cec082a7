import numpy as np
import pytest


pytest.importorskip("metaworld")

from hf_vpdd.envs import MetaWorldEnv
from hf_vpdd.envs.perturbations import PERTURBATIONS, _what_matters
from hf_vpdd.errors import InputError


TASK = "push"


def look(perturbation: str | None, seed: int, before: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """First picture (64, 64, 3) and the simulator's observations over twenty steps of the expert."""
    env = MetaWorldEnv(TASK, image_size=64, perturbation=perturbation)
    for other in before:
        env.reset(seed=other)
    picture = env.reset(seed=seed)[0]["images"]["corner2"]
    physics = []
    for _ in range(20):
        env.step(env.expert_action(), render=False)
        physics.append(env._raw_obs)
    env.close()
    return picture, np.stack(physics)


@pytest.fixture(scope="module")
def plain():
    return look(None, 3)


@pytest.mark.parametrize("name", list(PERTURBATIONS))
def test_it_changes_the_picture_the_same_way_every_time_and_never_the_physics(name, plain):
    picture, physics = look(name, 3)
    again, _ = look(name, 3, before=(4,))  # whatever another episode changed must be gone
    other, _ = look(name, 5)
    changed = (np.abs(picture.astype(int) - plain[0]).max(axis=-1) > 12).mean()
    assert changed > (0.01 if name == "distractor" else 0.2), changed
    np.testing.assert_array_equal(picture, again)
    np.testing.assert_array_equal(physics, plain[1])
    assert not np.array_equal(picture, other)


def test_the_large_camera_change_is_larger():
    env = MetaWorldEnv(TASK)
    env.reset(seed=0, render=False)
    model = env._sim.model
    index = model.camera("corner2").id
    at_home = model.cam_pos[index].copy()
    moved = {}
    for name in ("camera", "camera_large"):
        moved[name] = []
        for seed in range(10):
            env._restore_model()
            PERTURBATIONS[name].apply(model, env._sim.data, env.task, env.cameras, seed)
            moved[name].append(np.linalg.norm(model.cam_pos[index] - at_home))
            # It still looks at the same point of the table, from the same distance.
            assert abs(np.linalg.norm(_looks_at(model, index) - _looks_at(model, index, at_home, env))) < 1e-6
    assert max(moved["camera"]) < min(moved["camera_large"])
    assert 0.05 < min(moved["camera"]) and max(moved["camera_large"]) < 0.8


def _looks_at(model, index, position=None, env=None) -> np.ndarray:
    import mujoco

    if env is None:
        position, quaternion = model.cam_pos[index], model.cam_quat[index]
    else:
        quaternion = env._pristine["cam_quat"][index]
    frame = np.empty(9)
    mujoco.mju_quat2Mat(frame, quaternion)
    ahead = -frame.reshape(3, 3)[:, 2]
    return position - ahead * (position[2] - 0.05) / ahead[2]


@pytest.mark.parametrize("task", ["push", "door-open", "window-close", "peg-insert-side", "stick-pull"])
def test_distractors_keep_clear_of_what_matters(task):
    env = MetaWorldEnv(task, perturbation="distractor")
    for seed in range(5):
        env.reset(seed=seed, render=False)
        solids, _ = _what_matters(env._sim.model, env._sim.data)
        assert len(solids) >= 2
        for number in range(3):
            spot = env._sim.data.geom(f"distractor{number}").xpos
            gap = min(np.linalg.norm(spot[:2] - centre[:2]) - radius for centre, radius in solids)
            assert gap > 0.06, (seed, number, gap)


def test_impossible_perturbations_are_refused():
    with pytest.raises(InputError, match="pick-out-of-hole"):
        MetaWorldEnv("pick-out-of-hole", perturbation="distractor")
    with pytest.raises(InputError, match="gripperPOV"):
        MetaWorldEnv("push", cameras=("gripperPOV",), perturbation="camera")
    assert MetaWorldEnv("push", perturbation="table-color").perturbation == "table-color"
