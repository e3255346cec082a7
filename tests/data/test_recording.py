import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest


pytest.importorskip("metaworld")

from hf_vpdd.data import recording
from hf_vpdd.data.lerobot import LeRobotDataset
from hf_vpdd.data.recording import record
from hf_vpdd.envs import MetaWorldEnv
from hf_vpdd.envs.tasks import task_info
from hf_vpdd.errors import InputError


# Two tasks whose experts need about 35 steps, at a size that costs next to nothing.
ARGUMENTS = dict(tasks="handle-press,coffee-button", episodes_per_task=2, image_size=32, seed=1000, progress=False)


@pytest.fixture(scope="module", autouse=True)
def _workers_without_torch():
    """Workers spawned by the command `hf-vpdd` import no models, which saves seconds; see `hf_vpdd.registration`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hf-vpdd"])
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("recorded") / "data", **ARGUMENTS, workers=1)


def notes(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "meta" / "recording.jsonl").read_text().splitlines()]


def content(root: Path) -> dict[str, bytes]:
    """Every file of a dataset by its path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_recording_is_a_dataset_that_the_reader_opens(recorded):
    dataset = LeRobotDataset(recorded)
    assert len(dataset) == 4 and dataset.cameras == ["corner2"]
    assert not (recorded / ".staging").exists()
    for index, note in enumerate(notes(recorded)):
        episode = dataset.episode(index)
        assert episode["task"] == task_info(note["env"]).instruction
        length = len(episode["action"])
        assert recording.STEPS_AFTER_SUCCESS < length <= 200
        assert episode["action"].shape == episode["observation.state"].shape == (length, 4)
        assert episode["action"].dtype == episode["observation.state"].dtype == np.float32
        assert np.abs(episode["action"]).max() <= 1
        assert dataset.frames("corner2", index).shape == (length, 32, 32, 3)


def test_frames_states_and_labels_belong_together(recorded):
    """Row t is what is seen before step t, and the label is what the expert does there without noise."""
    dataset = LeRobotDataset(recorded)
    for index, note in enumerate(notes(recorded)):
        env = MetaWorldEnv(note["env"], image_size=32)
        obs, _ = env.reset(seed=note["seed"])
        episode = dataset.episode(index)
        frames = dataset.frames("corner2", index).astype(float)
        np.testing.assert_array_equal(episode["observation.state"][0], obs["state"])
        np.testing.assert_array_equal(episode["action"][0], env.expert_action())
        assert np.abs(frames[0] - obs["images"]["corner2"]).mean() < 6
        if note["noise"] == 0:  # then the labels are what was executed, and lead to success
            successes = []
            for step in range(len(episode["action"])):
                np.testing.assert_array_equal(episode["observation.state"][step], env.state)
                successes.append(env.step(episode["action"][step], render=False)[-1]["success"])
            assert any(successes)
        env.close()
    levels = {note["noise"] for note in notes(recorded)}
    assert levels <= set(recording.NOISE_LEVELS) and len(levels) > 1


def test_noise_is_executed_but_not_in_the_labels():
    env = MetaWorldEnv("handle-press", image_size=32)
    noisy = recording.demonstrate(env, 3, 0.3, np.random.default_rng(0))
    clean = recording.demonstrate(env, 3, 0.0, np.random.default_rng(0))
    env.reset(seed=3, render=False)
    for step in range(10):  # executing the labels of the noisy episode leads elsewhere
        env.step(noisy["action"][step], render=False)
    assert np.linalg.norm(env.state[:3] - noisy["state"][10][:3]) > 1e-3
    assert np.linalg.norm(clean["state"][10][:3] - noisy["state"][10][:3]) > 1e-3
    np.testing.assert_array_equal(clean["action"][0], noisy["action"][0])
    env.close()


def test_an_expert_that_fails_gives_no_demonstration():
    env = MetaWorldEnv("handle-press", image_size=32, max_steps=10)
    assert recording.demonstrate(env, 3, 0.0, np.random.default_rng(0)) is None
    env.close()


def test_workers_and_interruptions_change_no_number(recorded, tmp_path):
    """Kills a recording with two workers in the middle, sees that nothing looks like a dataset, and continues it."""
    root = tmp_path / "data"
    script = tmp_path / "hf-vpdd.py"
    script.write_text(
        "if __name__ == '__main__':\n"
        "    from hf_vpdd.data.recording import record\n"
        f"    record({str(root)!r}, **{ARGUMENTS!r}, workers=2)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    child = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.PIPE)
    staged = root / ".staging" / "episodes"
    deadline = time.monotonic() + 240
    while not list(staged.glob("[!.]*/episode.json")):
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < deadline, "no episode was recorded"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with pytest.raises(InputError, match="info.json"):
        LeRobotDataset(root)

    (staged / ".leftover.tmp").mkdir(exist_ok=True)  # as a worker leaves it that is killed while it writes
    with pytest.raises(InputError, match=r"unfinished recording: seed 1000 \(now 2000\)"):
        record(root, **ARGUMENTS | {"seed": 2000})
    record(root, **ARGUMENTS, workers=1)
    ours, theirs = content(root), content(recorded)
    assert ours.keys() == theirs.keys()
    for path in ours:
        # stats.json holds statistics of pixels, too
        assert path.endswith((".mp4", "stats.json")) or ours[path] == theirs[path], path
    # States and actions are equal to the last bit of their float32. The simulator's own float64 now and then is not
    # (one run in six here), and then an edge can fall on the other side of a sample: a few pixels of a frame.
    frames = [LeRobotDataset(folder).frames("corner2", 0).astype(np.int16) for folder in (root, recorded)]
    assert frames[0].shape == frames[1].shape
    assert (np.abs(frames[0] - frames[1]) > 8).mean() < 1e-3


def test_a_finished_recording_is_left_alone(recorded):
    before = {path: path.stat().st_mtime_ns for path in recorded.rglob("*")}
    record(recorded, **ARGUMENTS)
    assert {path: path.stat().st_mtime_ns for path in recorded.rglob("*")} == before
    with pytest.raises(InputError, match="another dataset: episodes_per_task 2"):
        record(recorded, **ARGUMENTS | {"episodes_per_task": 3})


def test_without_actions_with_paraphrases_and_two_cameras(tmp_path):
    root = record(
        tmp_path, tasks="handle-press", episodes_per_task=2, image_size=32, cameras=("corner2", "topview"),
        noise=(0.0,), actions=False, paraphrases=True, workers=1, progress=False,
    )  # fmt: skip
    dataset = LeRobotDataset(root)
    episode = dataset.episode(0)
    assert "action" not in episode and "action" not in dataset.features
    assert episode["observation.state"].shape[1] == 4
    assert sorted(dataset.cameras) == ["corner2", "topview"]
    assert not np.array_equal(dataset.frames("corner2", 0), dataset.frames("topview", 0))
    info = task_info("handle-press")
    sentences = {dataset.episode(index)["task"] for index in range(2)}
    assert sentences <= {info.instruction, *info.paraphrases}
    with pytest.raises(InputError, match="no feature"):
        dataset.columns(["action"])


def test_an_expert_that_never_succeeds_is_an_error(tmp_path):
    with pytest.raises(InputError, match="expert of handle-press-v3 failed 20 times"):
        record(tmp_path, "handle-press", 1, image_size=32, max_steps=5, workers=1, progress=False)


def test_the_plan_is_mixed_and_reproducible():
    plan = recording._make_plan(
        **{key: value for key, value in ARGUMENTS.items() if key != "progress"}, cameras="corner2",
        noise=recording.NOISE_LEVELS, actions=True, paraphrases=True, protocol="lean", max_steps=200,
        pix_fmt="yuv444p", crf=18,
    )  # fmt: skip
    levels = [plan.noise_level("push-v3", episode, 0) for episode in range(15)]
    assert all(sorted(levels[start : start + 5]) == sorted(recording.NOISE_LEVELS) for start in (0, 5, 10))
    assert levels[:5] != levels[5:10]
    # After every few failures the next lower level, in the end none.
    strongest = levels.index(0.5)
    tried = [plan.noise_level("push-v3", strongest, attempt) for attempt in range(recording.MAX_ATTEMPTS)]
    assert tried[:5] == [0.5] * 4 + [0.3] and tried[-1] == 0 and tried == sorted(tried, reverse=True)
    seeds = {plan.attempt_seed(e, a) for e in range(1000) for a in range(recording.MAX_ATTEMPTS)}
    assert len(seeds) == 1000 * recording.MAX_ATTEMPTS and max(seeds) < recording.FIRST_EVALUATION_SEED
    assert len({plan.sentence("push-v3", episode) for episode in range(30)}) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(tasks="drawer-clsoe"), "drawer-close-v3"),
        (dict(cameras="corner9"), "no camera 'corner9'"),
        (dict(episodes_per_task=0), "episodes_per_task"),
        (dict(seed=100_000), "kept for evaluation"),
        (dict(noise=(-1,)), "noise"),
        (dict(protocol="fast"), "protocol"),
        (dict(image_size=33, pix_fmt="yuv420p"), "even"),
        (dict(workers=0), "workers"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        record(tmp_path / "data", **ARGUMENTS | change)
    assert not (tmp_path / "data").exists()


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="neither empty nor a recording"):
        record(tmp_path, **ARGUMENTS)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_the_command_line(recorded, tmp_path, capsys):
    from hf_vpdd.cli import main

    assert main(["record", "--out", str(tmp_path / "x"), "--tasks", "flying"]) == 2
    assert "no Meta-World task 'flying'" in capsys.readouterr().err
    words = ["--tasks", "handle-press,coffee-button", "--episodes", "2", "--image-size", "32"]
    assert main(["record", "--out", str(recorded), *words]) == 0  # the same arguments: complete already
    assert main(["record", "--out", str(recorded), *words, "--no-actions"]) == 2
    assert "actions True (now False)" in capsys.readouterr().err
