"""The client of CALVIN against a toy behind the real server loop; and against CALVIN itself, where it is installed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from hf_vpdd.envs import calvin_process, calvin_setup
from hf_vpdd.envs.calvin import CalvinEnv, CalvinServerError
from hf_vpdd.errors import InputError


STANDIN = Path(__file__).with_name("calvin_standin.py")
OPEN = np.array([0, -1, 0, 0, 0, 0, 1.0])
PLACES = {"robot_obs": np.r_[np.arange(14) / 10, -1.0], "scene_obs": np.r_[0, 0.1, 0, 0, 1, 0, np.arange(18) / 100]}


@pytest.fixture
def root(tmp_path):
    annotations = tmp_path / "calvin" / calvin_setup.ANNOTATIONS
    annotations.parent.mkdir(parents=True)
    annotations.write_text("")
    return tmp_path / "calvin"


@pytest.fixture
def make(root, monkeypatch):
    made = []

    def one(mood="", **options):
        monkeypatch.setenv("CALVIN_STANDIN", mood)
        made.append(CalvinEnv(python=sys.executable, calvin_root=root, **{"server": STANDIN, **options}))
        return made[-1]

    yield one
    for env in made:
        env.close()


def gone(pid, seconds=10.0):
    """Whether a process ends within some seconds; also one that is not our child."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:  # of a child: has its last thread ended, so that it can be waited for?
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
        except ChildProcessError:
            try:
                if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                    return True
            except (FileNotFoundError, ProcessLookupError):
                return True
        time.sleep(0.05)
    return False


def test_an_episode(make):
    env = make(max_steps=9)
    assert env.tasks() == ("open_drawer", "close_drawer")
    assert env.sentences()["open_drawer"] == "pull the handle to open the drawer"
    obs, info = env.reset(options=PLACES)
    assert obs["instruction"] is None and obs["state"].dtype == np.float32
    np.testing.assert_array_equal(obs["state"], PLACES["robot_obs"].astype(np.float32))
    np.testing.assert_array_equal(info["scene_obs"], PLACES["scene_obs"])
    assert obs["images"]["static"].shape == (200, 200, 3) and obs["images"]["gripper"].shape == (84, 84, 3)
    obs = env.begin_subtask("open_drawer", "open it")
    assert obs["instruction"] == "open it" and list(obs["images"]) == ["static", "gripper"]
    for step in range(1, 8):
        obs, reward, terminated, truncated, info = env.step(OPEN)
        assert (reward, terminated, truncated) == (float(step == 7), step == 7, False)
    assert info["success"] and info["solved"] == ("open_drawer",)
    assert {name: obs["images"][name].shape for name in env.observation_space["images"]} == {
        name: box.shape for name, box in env.observation_space["images"].items()
    }
    # The world goes on: the next subtask is measured from here, not from the reset.
    env.begin_subtask("close_drawer", "close it")
    for step in range(1, 10):
        _, reward, terminated, truncated, info = env.step(-OPEN, render=False)
        if step == 6:
            assert not terminated
        if terminated:
            break
    assert step == 7 and info["solved"] == ("close_drawer",)
    env.begin_subtask("open_drawer", "open it")
    ends = [env.step(-OPEN)[2:4] for _ in range(9)]
    assert ends == [(False, False)] * 8 + [(False, True)]


def test_pictures_are_drawn_only_when_wanted(make):
    env = make(cameras="gripper")
    env.reset(options=PLACES)
    obs, *_ = env.step(OPEN, render=False)
    assert obs["images"] == {}
    assert env.render().shape == (84, 84, 3) and env.render()[0, 0, 0] == 12
    env.step(OPEN, render=False)
    assert env.begin_subtask("open_drawer", "now")["images"]["gripper"][0, 0, 0] == 14


def test_blocks_lie_where_the_seed_says(make):
    env = make()
    first, second, other = (env.reset(seed=seed)[1] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first["scene_obs"], second["scene_obs"])
    assert (first["scene_obs"] != other["scene_obs"]).any()
    assert env.reset()[1]["seed"] != env.reset()[1]["seed"]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"cameras": ("static", "wrist")}, "no camera 'wrist'; the cameras are static, gripper"),
        ({"cameras": ()}, "at least one"),
        ({"renderer": "opengl"}, "there are tiny, egl"),
        ({"scene": "E"}, "there are A, B, C, D"),
        ({"max_steps": 0}, "at least 1"),
        ({"dataset": "no/such/folder"}, "does not exist"),
        ({"renderer": "egl"}, r"renderer tiny needs no OpenGL[^$]*no OpenGL here"),
        ({"mood": "lack"}, r"lacks something \(No module named 'no_such_package_of_calvin'\)[^$]*doctor calvin"),
        ({"mood": "mute"}, "died during 'start', without a word"),
    ],
)
def test_a_start_that_must_fail(make, options, text):
    with pytest.raises(InputError, match=text):
        make(**options)


def test_the_way_to_calvin(monkeypatch, root, tmp_path):
    for variable in (calvin_setup.PYTHON_VARIABLE, calvin_setup.ROOT_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match="HF_VPDD_CALVIN_PYTHON.*doctor calvin"):
        CalvinEnv()
    with pytest.raises(InputError, match="is no program"):
        CalvinEnv(python=tmp_path)
    with pytest.raises(InputError, match="HF_VPDD_CALVIN_ROOT"):
        CalvinEnv(python=sys.executable)
    with pytest.raises(InputError, match="no checkout of github.com/mees/calvin"):
        CalvinEnv(python=sys.executable, calvin_root=tmp_path)
    script = tmp_path / "broken"
    script.write_text("no program")
    script.chmod(0o755)
    with pytest.raises(InputError, match="cannot be run"):
        CalvinEnv(python=script, calvin_root=root)
    monkeypatch.setenv(calvin_setup.PYTHON_VARIABLE, sys.executable)
    monkeypatch.setenv(calvin_setup.ROOT_VARIABLE, str(root))
    CalvinEnv(server=STANDIN).close()


def test_bad_input_leaves_the_episode_alone(make):
    env = make()
    for call in (lambda: env.step(OPEN), lambda: env.begin_subtask("open_drawer", "x"), lambda: env.state, env.render):
        with pytest.raises(InputError, match="call reset"):
            call()
    env.reset(options=PLACES)
    for action in (OPEN[:6], np.full(7, np.nan), [np.inf] * 7, ["a"] * 7, np.zeros((1, 7))):
        with pytest.raises(InputError, match="action"):
            env.step(action)
    with pytest.raises(InputError, match="no task 'dance'"):
        env.begin_subtask("dance", "dance")
    with pytest.raises(InputError, match="sentence"):
        env.begin_subtask("open_drawer", None)
    for options, text in (
        ({"robot_obs": PLACES["robot_obs"]}, "scene_obs is missing"),
        ({**PLACES, "scene_obs": np.zeros(23)}, r"\(24,\), but has \(23,\)"),
        ({**PLACES, "robot_obs": np.full(15, np.nan)}, "robot_obs must be finite"),
        ({**PLACES, "scene_obs": np.full(24, 0.5)}, "lights"),
        ({"variation": 1}, "not variation"),
    ):
        with pytest.raises(InputError, match=text):
            env.reset(options=options)
    with pytest.raises(InputError, match="seed"):
        env.reset(seed=-1)
    assert env.step(OPEN)[4]["scene_obs"][1] == pytest.approx(0.12)


@pytest.mark.parametrize(
    "mood, text",
    [
        ("die", r"died during 'step' \(exit status 7\); the last it said:[^$]*toy: dying"),
        ("crash", "failed with ArithmeticError: the toy broke"),
        ("nonsense", "nonsense .*CLV1"),
        ("flood", "larger than"),
    ],
)
def test_a_server_that_fails(make, mood, text):
    env = make(mood)
    env.reset()
    pid = env.server_pid
    with pytest.raises(CalvinServerError, match=text):
        env.step(OPEN)
    assert gone(pid)
    with pytest.raises(InputError, match="call reset"):
        env.step(OPEN)


def test_a_server_that_hangs_is_ended(make):
    env = make("hang", answer_seconds=1.0)
    env.reset()
    pid = env.server_pid
    with pytest.raises(CalvinServerError, match="did not answer 'step' within 1 s"):
        env.step(OPEN)
    assert gone(pid)


def test_reset_starts_a_dead_server_again(make):
    env = make()
    env.reset(options=PLACES)
    first = env.server_pid
    os.kill(first, signal.SIGKILL)
    with pytest.raises(CalvinServerError, match="SIGKILL"):
        env.step(OPEN)
    env.reset(options=PLACES)
    second = env.server_pid
    assert second != first and env.step(OPEN)[4]["scene_obs"][1] == pytest.approx(0.12)
    os.kill(second, signal.SIGKILL)
    assert gone(second)
    env.reset(options=PLACES)  # also when nobody had noticed
    env.close()
    env.close()
    env.reset()  # and after close


def test_the_server_ends_with_its_parent(root):
    """However the parent ends, and although a child of the parent has inherited the socket."""
    code = f"""
        import os, sys, time
        from hf_vpdd.envs.calvin import CalvinEnv
        env = CalvinEnv(python=sys.executable, calvin_root={str(root)!r}, server={str(STANDIN)!r})
        print(env.server_pid, flush=True)
        if os.fork() == 0:
            time.sleep(20)
        print(os.getpid(), flush=True)
        time.sleep(20)
    """
    source = str(Path(calvin_process.__file__).parents[2])
    environ = {**os.environ, "PYTHONPATH": source}
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=environ,
        start_new_session=True,
    )  # fmt: skip
    server = int(parent.stdout.readline())
    assert not gone(server, 0.2)
    parent.stdout.readline()
    parent.kill()
    parent.wait()
    try:
        assert gone(server)
    finally:
        os.killpg(parent.pid, signal.SIGKILL)  # the fork
        parent.stdout.close()


def test_a_fork_leaves_the_server_to_its_owner(make):
    env = make()
    env.reset(options=PLACES)
    child = os.fork()
    if child == 0:
        env.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert env.step(OPEN)[4]["scene_obs"][1] == pytest.approx(0.12)


def test_the_other_python_does_not_see_our_packages(make, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert make().versions["has_path"] is False
    kept = calvin_process.child_environment({"PYTHONHOME": "x", "HOME": "y", "LP_NUM_THREADS": "3"})
    assert "PYTHONHOME" not in kept and kept["HOME"] == "y"
    assert kept["LP_NUM_THREADS"] == "3" and kept["OMP_NUM_THREADS"] == "1"


# -- CALVIN itself ---------------------------------------------------------------------------------------------------

installed = pytest.mark.skipif(
    not (os.environ.get(calvin_setup.PYTHON_VARIABLE) and os.environ.get(calvin_setup.ROOT_VARIABLE)),
    reason="CALVIN is not installed here (hf-vpdd doctor calvin)",
)
NEUTRAL = np.array(
    [0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585, 0.07999963, -1.21779124, 1.03987629]
    + [2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928, 1.0]
)


def scene(slider=0.0, drawer=0.0):
    return np.r_[slider, drawer, np.zeros(4), 0.05, -0.12, 0.46, 0, 0, 1.5, 0.23, -0.12, 0.46, 0, 0, 1.5, 0.07, 0.0924,
                 0.461, 0, 0, 1.5]  # fmt: skip


def roll(env, steps, render=False, lead=0):
    """Some steps that shove a block, after an episode that closes the gripper."""
    if lead:
        env.reset(options={"robot_obs": NEUTRAL, "scene_obs": scene(drawer=0.1)})
        for _ in range(lead):
            env.step([0.5, 0.5, -1, 0, 0, 0, -1], render=False)
    first, _ = env.reset(options={"robot_obs": NEUTRAL, "scene_obs": scene()})
    draw = np.random.default_rng(0)
    for _ in range(steps):
        action = np.r_[np.clip([0.3, 0.3, -1, 0, 0, 0] + 0.3 * draw.standard_normal(6), -1, 1), 1]
        _, _, _, _, info = env.step(action, render=render)
    return first, info, env.render_images()


@installed
@pytest.mark.parametrize("renderer", ["tiny", "egl"])
def test_calvin_what_happens_does_not_depend_on_what_was(renderer):
    env, other = CalvinEnv(renderer=renderer), CalvinEnv(renderer=renderer)
    try:
        assert len(env.tasks()) == 34 and set(env.sentences()) == set(env.tasks())
        first, info, images = roll(env, 25, lead=5)
        again, same, pictures = roll(other, 25)
    finally:
        env.close()
        other.close()
    np.testing.assert_array_equal(first["state"], again["state"])
    assert first["state"][14] == 1.0
    for name in ("robot_obs", "scene_obs"):
        np.testing.assert_array_equal(info[name], same[name])
    assert np.linalg.norm(info["scene_obs"][6:9] - scene()[6:9]) > 0.01  # something was touched
    for name in ("static", "gripper"):
        np.testing.assert_array_equal(first["images"][name], again["images"][name])
        np.testing.assert_array_equal(images[name], pictures[name])
        assert images[name].std() > 20


@installed
def test_calvin_the_official_leftovers_are_kept_if_wanted():
    env = CalvinEnv(cameras="gripper", keep_stale_gripper=True)
    try:
        first, info, _ = roll(env, 1, lead=5)
    finally:
        env.close()
    assert first["state"][14] == -1.0  # the last command of the episode before


@installed
def test_calvin_the_scene_is_the_one_asked_for():
    env = CalvinEnv(cameras="static")
    try:
        assert len(env.training_sentences()) == 34
        _, info = env.reset(options={"robot_obs": NEUTRAL, "scene_obs": scene(slider=0.28, drawer=0.1)})
        np.testing.assert_allclose(info["scene_obs"], scene(slider=0.28, drawer=0.1), atol=5e-3)
        np.testing.assert_allclose(info["robot_obs"], NEUTRAL, atol=5e-3)
        env.begin_subtask("open_drawer", env.sentences()["open_drawer"])
        _, reward, terminated, _, info = env.step(np.r_[np.zeros(6), 1])
        assert (reward, terminated, info["solved"]) == (0.0, False, ())
    finally:
        env.close()
