import subprocess
import sys

import numpy as np
import pytest

from hf_vpdd.envs import other_bodies
from hf_vpdd.envs.other_bodies import BODY_TASKS, Waypoint, body_tasks
from hf_vpdd.errors import InputError


def test_scenes_are_named_with_or_without_their_body():
    assert body_tasks("fetch") == ("fetch-reach", "fetch-push", "fetch-pick")
    assert body_tasks("adroit", "door,adroit-pen") == ("adroit-door", "adroit-pen")
    for source, names, message in (
        ("sawyer", "all", "adroit, fetch, kitchen"),
        ("fetch", "door", "fetch has no scene 'door'"),
        ("fetch", "push,push", "once"),
        ("fetch", "", "at least one"),
    ):
        with pytest.raises(InputError, match=message):
            body_tasks(source, names)


def test_sentences_are_one_per_scene_and_bodies_are_three():
    assert len({about.instruction for about in BODY_TASKS.values()}) == len(BODY_TASKS)
    assert {about.source for about in BODY_TASKS.values()} == {"fetch", "adroit", "kitchen"}
    assert all(name.startswith(f"{about.source}-") for name, about in BODY_TASKS.items())


def test_motion_passes_every_point_and_stands_at_the_last():
    start, points = Waypoint((0, 0, 0), 0.0, 0.0), [Waypoint((1, 0, 0), 1.0, 0.5), Waypoint((1, 2, 0), 0.5, 1.0)]
    path = [other_bodies._between(start, points, t) for t in np.linspace(0, 2, 201)]
    positions, grips = np.array([p for p, _ in path]), np.array([g for _, g in path])
    assert np.allclose(positions[[0, 50, 150, 200]], [(0, 0, 0), (1, 0, 0), (1, 2, 0), (1, 2, 0)])
    assert np.allclose(grips[[0, 50, 150]], [0, 1, 0.5])
    # no jumps: the largest speed of a minimum-jerk motion is 15/8 of its mean, here 2 m in 1 s
    assert np.abs(np.diff(positions, axis=0)).max() <= 0.01 * 2 * 15 / 8 + 1e-9


def test_without_the_package_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['gymnasium_robotics'] = None\n"
        "from hf_vpdd.envs.other_bodies import BodyScene\n"
        "from hf_vpdd.errors import InputError\n"
        "try: BodyScene('fetch-push', 32)\n"
        "except InputError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "hf-vpdd[embodiment]" in out.stdout, out.stderr


def test_unknown_scenes_and_sizes_are_refused():
    with pytest.raises(InputError, match="fetch-fly"):
        other_bodies.BodyScene("fetch-fly")
    with pytest.raises(InputError, match="image_size"):
        other_bodies.BodyScene("fetch-push", image_size=4)


@pytest.mark.parametrize("task", ["fetch-pick", "adroit-relocate", "kitchen-slide"])
def test_a_body_moves_is_seen_and_repeats_itself(task):
    pytest.importorskip("gymnasium_robotics")
    scene = other_bodies.BodyScene(task, image_size=32)
    try:
        frames = scene.film(seed=3, noise=0.2, length=40)
        assert frames.shape == (40, 32, 32, 3) and frames.dtype == np.uint8
        assert frames[0].std() > 10  # not one colour
        later = np.abs(frames[-1].astype(int) - frames[0])
        assert 2 < later.mean() < 80  # something moved, and the camera did not
        assert (frames == scene.film(seed=3, noise=0.2, length=40)).all()
        tips = [np.array([tip for tip, _ in zip(scene.motion(seed), range(40))]) for seed in (3, 4)]
        assert np.abs(tips[0] - tips[1]).max() > 0.02  # another seed, another motion
        steps = np.linalg.norm(np.diff(tips[0], axis=0), axis=1)
        assert steps.sum() > 0.1 and steps.max() < 0.06  # 10 cm at least, nowhere faster than 5 m/s
    finally:
        scene.close()
        scene.close()
