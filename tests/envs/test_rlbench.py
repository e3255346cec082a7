"""The RLBench environment against a stand-in with RLBench's own signatures and complaints."""

import sys

import numpy as np
import pytest

from hf_vpdd.envs import rlbench_setup, rlbench_tasks
from hf_vpdd.errors import InputError

from . import rlbench_world


ABOVE = np.array([0.3, 0.1, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0])


@pytest.fixture
def world(monkeypatch, tmp_path):
    yield rlbench_world.install(monkeypatch, tmp_path)
    rlbench_world.forget()


def make(task="close_jar", **options):
    from hf_vpdd.envs.rlbench import RLBenchEnv

    return RLBenchEnv(task, **{"image_size": 16, **options})


def target_of(env) -> np.ndarray:
    return env._scene._scene.target


def reaching(env) -> np.ndarray:
    """The keyframe that solves the stand-in's task."""
    return np.concatenate([target_of(env), [0.0, 0.6, 0.0, 0.8], [0.0]])


def test_an_episode_from_launch_to_shutdown(world):
    env = make()
    assert world.CALLS == []  # CoppeliaSim starts when it is needed
    observation, info = env.reset(seed=7, options={"variation": 2})
    assert [call[0] for call in world.CALLS] == ["launch", "get_task", "set_variation", "reset"]
    assert world.CALLS[2] == ("set_variation", 2) and info["variation"] == 2
    assert list(observation["images"]) == ["front", "left_shoulder", "right_shoulder", "wrist"]
    assert [int(picture[0, 0, 1]) for picture in observation["images"].values()] == [4, 0, 1, 3]  # nothing swapped
    np.testing.assert_allclose(observation["state"], [1, 0.04, 0.04, 1])
    assert observation["instruction"] in info["descriptions"] and "lime" in observation["instruction"]
    assert env.observation_space.contains(observation)

    observation, reward, terminated, truncated, info = env.step(ABOVE)
    assert (reward, terminated, truncated, info) == (0, False, False, {"success": False, "failure": None})
    observation, reward, terminated, truncated, info = env.step(reaching(env))
    assert (reward, terminated, info["success"], info["failure"]) == (1, True, True, None)
    np.testing.assert_allclose(observation["state"], [0, 0, 0, 1])
    with pytest.raises(InputError, match="over; call reset"):
        env.step(ABOVE)
    env.close()
    env.close()
    assert [call[0] for call in world.CALLS[4:]] == ["step", "step", "shutdown"]


def test_the_simulator_gets_position_unit_quaternion_and_gripper(world):
    env = make()
    env.reset(seed=0)
    env.step(np.array([0.3, 0.1, 1.0, 0.0, 2.0, 0.0, 0.0, 0.7], np.float32))
    command = world.CALLS[-1][1]
    np.testing.assert_allclose(command, [0.3, 0.1, 1.0, 0, 1, 0, 0, 1], atol=1e-6)
    # float32 decoded from bins is unit enough
    quaternion = np.array([0.1, -0.7, 0.2, 0.4], np.float32)
    env.step(np.array([0.3, 0.1, 1.0, *(quaternion / np.linalg.norm(quaternion)), 0.49], np.float32))
    command = world.CALLS[-1][1]
    assert command.shape == (8,) and command[7] == 0.0 and np.linalg.norm(command[3:7]) == pytest.approx(1, abs=1e-12)
    env.close()


def test_peracts_fork_gets_its_ninth_number(monkeypatch, tmp_path):
    world = rlbench_world.install(monkeypatch, tmp_path, fork=True)
    env = make()
    env.reset(seed=0)
    assert not env.step(ABOVE)[4]["failure"]
    assert world.CALLS[-1][1].tolist() == [*ABOVE, 1.0]
    env.close()
    rlbench_world.forget()


@pytest.mark.parametrize(
    ("height", "failure"),
    [
        (2.5, "InvalidActionError: .*outside of workspace"),
        (1.65, "ConfigurationPathError"),
        (1.75, "IKError"),
        (0.62, "can no longer succeed"),
    ],
)
def test_what_cannot_be_reached_ends_the_episode_and_says_why(world, height, failure):
    env = make()
    before, _ = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step([0.3, 0.1, height, 0, 1, 0, 0, 1])
    assert terminated and not truncated and reward == 0 and not info["success"]
    assert __import__("re").search(failure, info["failure"])
    assert observation["images"].keys() == before["images"].keys()
    env.reset(seed=0)  # and the next one goes on
    assert env.step(ABOVE)[2] is False
    env.close()


def test_the_seed_is_the_episode_and_the_programs_own_randomness_is_left_alone(world):
    env = make()
    np.random.seed(5)
    expected = np.random.RandomState(5).uniform(size=3)
    first, info = env.reset(seed=100003)
    place = target_of(env).copy()
    np.testing.assert_array_equal(np.random.uniform(size=3), expected)
    for seed in (1, 100003):
        again, info_again = env.reset(seed=seed)
    np.testing.assert_array_equal(target_of(env), place)
    assert info_again == info and again["instruction"] == first["instruction"]
    seeds = [env.reset(seed=seed)[1] for seed in range(30)]
    assert {one["variation"] for one in seeds} == {0, 1, 2}
    # the wording: all of a variation's sentences occur
    sentences = {env.reset(seed=seed, options={"variation": 1})[0]["instruction"] for seed in range(30)}
    assert len(sentences) == 3 and all("maroon" in sentence for sentence in sentences)
    env.reset(seed=100003, options={"variation": 0})
    np.testing.assert_array_equal(target_of(env), place)  # the scene is drawn apart from the variation
    env.close()


def test_a_stored_demonstration_is_put_back(world):
    env = make()
    state = np.random.RandomState(11).get_state()
    observation = world.Observation(misc={"variation_index": 1})
    demo = world.Demo([observation], random_seed=state)
    _, info = env.reset(seed=0, options={"demo": demo})
    np.testing.assert_array_equal(target_of(env), np.random.RandomState(11).uniform([0.1, -0.3, 0.8], [0.4, 0.3, 1.0]))
    assert info["variation"] == 1
    demo.variation_number = 2  # as PerAct's fork keeps it
    demo._observations[0].misc["variation_index"] = 2
    assert env.reset(seed=0, options={"demo": demo})[1]["variation"] == 2
    env.close()


def test_a_scene_that_cannot_be_placed_is_drawn_again(world):
    env = make()
    env.reset(seed=3)
    first = target_of(env).copy()
    env._scene._scene.fail_next_resets = 2
    env.reset(seed=3)
    assert not np.array_equal(target_of(env), first)
    env._scene._scene.fail_next_resets = 3
    with pytest.raises(world.TaskEnvironmentError):
        env.reset(seed=3)
    env.close()


def test_history_is_of_the_steps_on_the_way(world):
    """Four frames, two simulator steps apart: PATH_STEPS pictures come between two keyframes."""
    env = make(history_frames=4, history_stride=2, cameras="wrist")

    def ticks(observation):
        return observation["images"]["wrist"][:, 0, 0, 0].tolist()

    observation, _ = env.reset(seed=0)
    assert ticks(observation) == [0]
    observation = env.step(ABOVE)[0]  # the gripper stays: the last picture of the way is the keyframe's
    assert ticks(observation) == [1, 3, 5] and env.ticks == 5
    observation = env.step([*ABOVE[:7], 0.0])[0]  # it closes: one more picture
    assert ticks(observation) == [5, 7, 9, 10] and env.ticks == 11
    assert ticks(env.reset(seed=1)[0]) == [0] and env.ticks == 0
    env.close()


def test_a_chunk_stops_at_the_end_and_collects_the_way(world):
    env = make(max_steps=3)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step_chunk([ABOVE, reaching(env), ABOVE], collect_frames=True)
    assert (reward, terminated, truncated, info["steps"]) == (1, True, False, 2)
    assert info["states"].shape == (2, 4)
    assert info["frames"]["front"].shape == (2 * world.PATH_STEPS + 1, 16, 16, 3)
    assert info["frames"]["front"][:, 0, 0, 0].tolist() == [*range(1, 11), 10]
    env.reset(seed=0)
    truncated, info = env.step_chunk([ABOVE] * 5)[3:]
    assert truncated and info["steps"] == env.steps == 3
    with pytest.raises(InputError, match="over"):
        env.step_chunk([ABOVE])
    env.close()


def test_environments_take_turns_with_the_one_simulator(world):
    first, second = make("close_jar"), make("turn_tap")
    first.reset(seed=0)
    second.reset(seed=0)
    assert [call for call in world.CALLS if call[0] in ("launch", "get_task")] == [
        ("launch",),
        ("get_task", "CloseJar"),
        ("get_task", "TurnTap"),
    ]
    with pytest.raises(InputError, match="turn_tap has taken the simulator"):
        first.step(ABOVE)
    first.reset(seed=0)
    first.step(ABOVE)
    with pytest.raises(InputError, match="other environments"):
        make(image_size=32).reset(seed=0)
    first.close()
    assert world.CALLS[-1][0] != "shutdown"
    second.close()
    assert world.CALLS[-1][0] == "shutdown"
    third = make(image_size=32)
    assert third.reset(seed=0)[0]["images"]["front"].shape == (32, 32, 3)
    third.close()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: make("close_ja"), "did you mean close_jar"),
        (lambda: make("place_wine_at_rack_location"), "PerAct's fork"),
        (lambda: make("Close the jar"), "look like close_jar"),
        (lambda: make(cameras=("front", "side")), "no camera 'side'"),
        (lambda: make(image_size=4), "image_size"),
        (lambda: make(history_frames=0), "history_frames"),
        (lambda: make().step(ABOVE), "call reset"),
        (lambda: make().reset(seed=-1), "seed"),
        (lambda: make().reset(seed=0, options={"variation": 3}), "variations 0 to 2, not 3"),
    ],
)
def test_wrong_use_is_explained(world, use, message):
    with pytest.raises(InputError, match=message):
        use()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (ABOVE[:7], r"shape \(8,\)"),
        (ABOVE * np.nan, "finite"),
        ([0.3, 0.1, 1.0, 0, 0, 0, 0, 1], "quaternion other than 0"),
    ],
)
def test_wrong_actions_are_explained(world, action, message):
    env = make()
    env.reset(seed=0)
    with pytest.raises(InputError, match=message):
        env.step(action)
    with pytest.raises(InputError, match=r"\(n, 8\)"):
        env.step_chunk(ABOVE)
    env.close()


def test_without_rlbench_the_way_to_it_is_named(monkeypatch):
    rlbench_world.forget()
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(rlbench_world.STANDIN)])
    with pytest.raises(InputError, match="hf-vpdd doctor rlbench"):
        make()


def test_pypis_pyrep_is_recognised(monkeypatch, tmp_path):
    rlbench_world.forget()
    (tmp_path / "pyrep").mkdir()
    (tmp_path / "pyrep" / "__init__.py").write_text("__version__ = '3.2.0'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="unrelated project: pip uninstall pyrep"):
        make()
    parts = {part.name: part for part in rlbench_setup.examine({})}
    assert "unrelated" in parts["PyRep"].found and "pip uninstall pyrep" in parts["PyRep"].fix
    rlbench_world.forget()


def test_a_simulator_that_cannot_start_is_not_started(world, monkeypatch):
    monkeypatch.delenv("DISPLAY")
    with pytest.raises(InputError, match="DISPLAY is not set.*doctor rlbench"):
        make().reset(seed=0)
    assert world.CALLS == []


def test_what_is_there_and_what_is_missing(world, tmp_path, monkeypatch):
    assert rlbench_setup.missing() == []
    assert "4.1.0.3" in [part.found for part in rlbench_setup.examine() if part.name == "PyRep"]
    (rlbench,) = (part.found for part in rlbench_setup.examine() if part.name == "RLBench")
    assert rlbench.startswith("1.2.0, without PerAct's place_wine_at_rack_location")
    names = [part.name for part in rlbench_setup.missing({})]
    assert names == ["CoppeliaSim", "LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH", "display"]
    (tmp_path / "libcoppeliaSim.so.1").unlink()
    assert "no libcoppeliaSim.so" in rlbench_setup.missing()[0].found
    rlbench_world.forget()
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(rlbench_world.STANDIN)])
    assert [part.name for part in rlbench_setup.missing()][1:] == ["PyRep", "RLBench"]


def test_task_lists():
    assert len(rlbench_tasks.PERACT_TASKS) == 18 and len(rlbench_tasks.VPDD_TASKS) == 17
    assert rlbench_tasks.resolve_tasks("turn-tap, vpdd17")[:2] == ("turn_tap", "close_jar")
    assert len(rlbench_tasks.resolve_tasks("turn-tap,vpdd17,peract18")) == 18
    assert rlbench_tasks.resolve_tasks(["reach_target"]) == ("reach_target",)
    assert rlbench_tasks.class_name("insert_onto_square_peg") == "InsertOntoSquarePeg"
    for words in ("", "jar", "close jar"):
        with pytest.raises(InputError):
            rlbench_tasks.resolve_tasks(words)
