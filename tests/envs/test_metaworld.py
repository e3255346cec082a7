import hashlib
import inspect
import subprocess
import sys

import numpy as np
import pytest


pytest.importorskip("metaworld")

from hf_vpdd.envs import MetaWorldEnv, expert_action
from hf_vpdd.envs.metaworld import box_mean
from hf_vpdd.errors import InputError


def _digest(env, seed: int, steps: int = 15) -> str:
    """SHA-256 of states and pictures of the expert's first steps."""
    obs, _ = env.reset(seed=seed)
    digest = hashlib.sha256()
    for _ in range(steps):
        digest.update(obs["state"].tobytes())
        digest.update(obs["images"]["corner2"].tobytes())
        obs, *_ = env.step(expert_action(env))
    return digest.hexdigest()


@pytest.fixture
def make():
    """Makes environments and closes them after the test."""
    made = []

    def build(*args, **kwargs) -> MetaWorldEnv:
        made.append(MetaWorldEnv(*args, **kwargs))
        return made[-1]

    yield build
    for env in made:
        env.close()


# -- the same episode everywhere --------------------------------------------------------------------------------------


def test_an_episode_is_the_same_in_any_order_and_in_another_process(make):
    env = make("push", image_size=32)
    first = _digest(env, 7)
    other = _digest(env, 8)
    assert first != other  # start and goal do depend on the seed
    assert _digest(env, 7) == first  # and not on the episodes before
    code = [
        "import sys; sys.argv = ['hf-vpdd']",  # a process of that name imports no models, which would take seconds
        "import hashlib",
        "from hf_vpdd.envs import MetaWorldEnv, expert_action",
        inspect.getsource(_digest),
        "print(_digest(MetaWorldEnv('push', image_size=32), 7))",
    ]
    child = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True)
    assert child.stdout.strip() == first, child.stderr


def test_the_start_is_that_of_metaworlds_own_seeding(make):
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    sim = ALL_V3_ENVIRONMENTS["peg-insert-side-v3"]()
    sim._partially_observable, sim._freeze_rand_vec, sim.seeded_rand_vec = False, False, True
    sim.seed(123)
    expected, _ = sim.reset()
    env = make("peg-insert-side")
    env.reset(seed=9, render=False)
    env.reset(seed=123, render=False)
    np.testing.assert_array_equal(env._raw_obs, expected)


def test_the_protocol_does_not_touch_the_physics(make):
    lean, stock = make("pick-place"), make("pick-place", protocol="lerobot-mt50")
    lean.reset(seed=3, render=False)
    stock.reset(seed=3, render=False)
    for _ in range(30):
        action = lean.expert_action()
        np.testing.assert_array_equal(stock.expert_action(), action)
        lean.step(action, render=False)
        stock.step(action, render=False)
    np.testing.assert_array_equal(lean._raw_obs, stock._raw_obs)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_two_tasks_in_one_process_draw_what_each_draws_alone(make):
    """A GL context that is not made current draws with the meshes of whichever environment came last, and halves
    success rates without a word. Fails without `make_context_current()` in `OffscreenRenderer.draw`."""
    tasks = ("drawer-close", "window-open", "button-press-topdown")
    alone = {}
    for task in tasks:
        env = make(task, image_size=64)
        alone[task] = env.reset(seed=5)[0]["images"]["corner2"]
        env.close()
    together = {task: make(task, image_size=64) for task in tasks}
    for env in together.values():
        env.reset(seed=5)  # the first picture makes the context: all three exist from here on
    for _ in range(2):
        for task in tasks:
            np.testing.assert_array_equal(together[task].render(), alone[task], err_msg=task)
    together["window-open"].close()  # nor may closing one take the textures of another along
    np.testing.assert_array_equal(together["drawer-close"].render(), alone["drawer-close"])


def test_vpdd_protocol_is_the_turned_crop_of_the_stock_picture(make):
    env = make("drawer-open", protocol="vpdd", image_size=260)
    picture = env.reset(seed=2)[0]["images"]["corner2"]
    stock = _stock_picture("drawer-open-v3", 2)
    np.testing.assert_array_equal(picture, np.rot90(stock, 2)[110:370, 110:370])
    assert picture.flags.c_contiguous and env.max_steps == 200
    small = make("drawer-open", protocol="vpdd").reset(seed=2)[0]["images"]["corner2"]
    assert small.shape == (96, 96, 3) and small.dtype == np.uint8

    lean = make("drawer-open").reset(seed=2)[0]["images"]["corner2"].astype(float)

    def difference(other):
        return np.abs(lean - other).mean()

    assert difference(small) < 15  # the same view, but for shadows and mirrors (9.5) ...
    assert difference(small) < 0.5 * difference(small[:, ::-1])  # ... not mirrored
    assert difference(small) < 0.5 * difference(small[::-1])  # ... and not upside down


def test_lerobot_protocol_is_the_moved_camera_with_both_axes_flipped(make):
    env = make("drawer-open", protocol="lerobot-mt50")
    picture = env.reset(seed=2)[0]["images"]["corner2"]
    stock = _stock_picture("drawer-open-v3", 2, corner2=(0.75, 0.075, 0.7))
    np.testing.assert_array_equal(picture, np.flip(stock, (0, 1)))
    assert picture.shape == (480, 480, 3) and env.max_steps == 500


def _stock_picture(task: str, seed: int, corner2: tuple | None = None) -> np.ndarray:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    sim = ALL_V3_ENVIRONMENTS[task](render_mode="rgb_array", camera_name="corner2")
    sim._partially_observable, sim._freeze_rand_vec, sim.seeded_rand_vec, sim._set_task_called = (
        False,
        False,
        True,
        True,
    )
    if corner2 is not None:
        sim.model.cam_pos[sim.model.camera("corner2").id] = corner2
    sim.seed(seed)
    sim.reset()
    picture = sim.render().copy()
    sim.close()
    return picture


def test_the_first_picture_shows_the_goal_of_this_episode(make):
    env = make("push")
    for seed in (1, 2):
        env.reset(seed=seed, render=False)
        np.testing.assert_allclose(env._sim.data.site("goal").xpos, env._sim._target_pos)


def test_several_cameras_in_one_observation(make):
    env = make("reach", cameras=("corner2", "topview", "gripperPOV"), image_size=48)
    obs, _ = env.reset(seed=0)
    assert list(obs["images"]) == ["corner2", "topview", "gripperPOV"]
    pictures = list(obs["images"].values())
    assert all(picture.shape == (48, 48, 3) for picture in pictures)
    assert all(np.abs(a.astype(int) - b).mean() > 10 for a, b in zip(pictures, pictures[1:]))
    assert env.observation_space.contains(obs)
    np.testing.assert_array_equal(
        make("reach", camera="topview", image_size=48).reset(seed=0)[0]["images"]["topview"], pictures[1]
    )


# -- episodes ---------------------------------------------------------------------------------------------------------


def test_the_expert_closes_the_drawer(make):
    env = make("drawer-close")
    obs, info = env.reset(seed=100_000, render=False)
    assert obs["images"] == {} and obs["instruction"] == "close the drawer" and info["seed"] == 100_000
    for step in range(120):
        action = env.expert_action()
        assert action.dtype == np.float32 and np.abs(action).max() <= 1
        obs, reward, terminated, truncated, info = env.step(action, render=False)
        if info["success"]:
            break
    assert info["success"] is True and 60 < step < 100
    assert not terminated and not truncated
    assert obs["state"].shape == (4,) and obs["state"].dtype == np.float32


def test_a_chunk_is_its_steps_and_stops_at_success(make):
    env = make("handle-press", image_size=32)
    env.reset(seed=0, render=False)
    actions, states, success = [], [], []
    for _ in range(60):
        actions.append(env.expert_action())
        obs, _, _, _, info = env.step(actions[-1], render=False)
        states.append(obs["state"])
        success.append(info["success"])
    first = success.index(True)
    frame = None

    env.reset(seed=0, render=False)
    half = first // 2
    obs, _, _, _, info = env.step_chunk(np.stack(actions[:half]))
    assert info["steps"] == half and not info["success"]
    np.testing.assert_array_equal(info["states"], states[:half])
    frame = obs["images"]["corner2"]
    obs, _, terminated, truncated, info = env.step_chunk(np.stack(actions[half:]), collect_frames=True)
    assert info["success"] and info["steps"] == first - half + 1 and env.steps == first + 1
    assert info["frames"]["corner2"].shape == (info["steps"], 32, 32, 3)
    np.testing.assert_array_equal(info["frames"]["corner2"][-1], obs["images"]["corner2"])
    assert not np.array_equal(frame, obs["images"]["corner2"])
    assert not terminated and not truncated


def test_an_episode_ends_at_its_step_limit(make):
    env = make("reach", max_steps=5)
    env.reset(seed=0, render=False)
    *_, truncated, info = env.step_chunk(np.zeros((9, 4)), render=False)
    assert truncated and info["steps"] == 5
    with pytest.raises(InputError, match=r"over after 5 steps; call reset\(\)"):
        env.step(np.zeros(4), render=False)
    env.reset(seed=0, render=False)
    assert env.steps == 0


def test_averaging_large_blocks_does_not_overflow():
    picture = np.full((40, 80, 3), 250, np.uint8)
    assert (box_mean(picture, 20) == 250).all() and (box_mean(picture, 2) == 250).all()


# -- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(task="drawer-clsoe"), "did you mean drawer-close-v3"),
        (dict(task="reach", cameras=("gripper_pov",)), "no camera 'gripper_pov'; did you mean gripperPOV"),
        (dict(task="reach", cameras=("corner2", "corner2")), "once"),
        (dict(task="reach", cameras=()), "at least one"),
        (dict(task="reach", protocol="fast"), "lean, vpdd, lerobot-mt50"),
        (dict(task="reach", image_size=0), "image_size"),
        (dict(task="reach", max_steps=0), "max_steps"),
        (dict(task="reach", instruction=" "), "instruction must be a sentence"),
        (dict(task="reach", perturbation="lihgt"), "did you mean light"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        MetaWorldEnv(**arguments)


def test_wrong_actions_are_named(make):
    env = make("reach")
    with pytest.raises(InputError, match="reset"):
        env.step(np.zeros(4))
    env.reset(seed=0, render=False)
    with pytest.raises(InputError, match=r"shape \(4,\), but this one \(3,\)"):
        env.step(np.zeros(3))
    with pytest.raises(InputError, match="not finite"):
        env.step(np.array([0, np.nan, 0, 0]))
    with pytest.raises(InputError, match=r"\(n, 4\)"):
        env.step_chunk(np.zeros((0, 4)))
    with pytest.raises(InputError, match="seed"):
        env.reset(seed=-1)
