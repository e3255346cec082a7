"""CALVIN -> LeRobot: nothing is lost, nothing half-made is left behind, and a kill costs no byte."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hf_vpdd.cli import main
from hf_vpdd.data import CalvinDataset, LeRobotDataset
from hf_vpdd.data.calvin_conversion import CalvinSource, convert_calvin
from hf_vpdd.errors import InputError

from .calvin_folder import SENTENCES, TASKS, WINDOWS, frame, write_calvin, write_frame


QUIET = {"progress": False, "workers": 1}


@pytest.fixture(scope="module", autouse=True)
def _workers_without_torch():
    """Workers spawned by the command `hf-vpdd` import no models, which saves seconds; see `hf_vpdd.registration`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hf-vpdd"])
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    sizes = {"rgb_static": 64, "rgb_gripper": 32}
    return write_calvin(tmp_path_factory.mktemp("calvin") / "task_D_D", ("training", "validation"), sizes)


@pytest.fixture(scope="module")
def converted(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("lerobot") / "calvin"
    assert main(["convert", "dataset", "--from", "calvin", str(root), str(out), "--workers", "2"]) == 0
    return out


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_numbers_and_times_are_the_same_and_pictures_nearly(root, converted):
    before, after = CalvinDataset(root), LeRobotDataset(converted)
    assert after.version == "v3.0" and after.fps == 30 and after.info["robot_type"] == "panda"
    assert after.num_episodes == len(WINDOWS) and after.episodes.task == SENTENCES
    assert set(before.features) <= set(after.features)
    for index in range(len(before)):
        theirs, ours = before.episode(index), after.episode(index)
        assert set(theirs) == set(ours)
        for key, value in theirs.items():
            if key.startswith("observation.images."):
                error = np.abs(value.astype(int) - ours[key])
                assert value.shape == ours[key].shape
                assert -10 * np.log10((error**2).mean() / 255**2) > 33  # the squares' edges are hard, 64 and 32 pixels
                another = np.abs(value.astype(int) - np.roll(ours[key], 1, axis=0))
                assert error.mean() < another.mean() / 2
            elif key != "task":
                assert ours[key].dtype == np.asarray(value).dtype, key
                np.testing.assert_array_equal(ours[key], value, err_msg=key)
    action, state = after.features["action"], after.features["observation.state"]
    assert action["names"][-1] == state["names"][-1] == "gripper" and action["names"][0] == "dx"
    np.testing.assert_array_equal(
        np.asarray(after.stats["action"]["max"], np.float32), before.columns(["action"])["action"].max(0)
    )


def test_where_each_episode_comes_from(converted):
    lines = [json.loads(line) for line in (converted / "meta" / "conversion.jsonl").read_text().splitlines()]
    assert [(line["first_frame"], line["last_frame"]) for line in lines] == WINDOWS
    assert [line["task"] for line in lines] == TASKS and [line["episode_index"] for line in lines] == list(range(5))
    assert not [path for path in converted.iterdir() if path.name.startswith(".")]
    plan = json.loads((converted / "meta" / "info.json").read_text())["conversion"]
    assert plan["source"] == "calvin" and plan["split"] == "training" and os.sep not in str(plan)


def test_the_number_of_processes_changes_no_byte(root, converted, tmp_path):
    convert_calvin(root, tmp_path / "out", **QUIET)
    assert tree(tmp_path / "out") == tree(converted)


def test_killed_it_goes_on_and_no_byte_differs(root, converted, tmp_path):
    """kill -9 of the whole process while it works, several times, then the same call to the end."""
    out = tmp_path / "out"
    script = (
        "import sys, time\nsys.argv[0] = 'hf-vpdd'\nfrom hf_vpdd.data import conversion\n"
        "from hf_vpdd.data.calvin_conversion import convert_calvin\nreal = conversion.encode_video\n"
        "def slow(*args, **options):\n    time.sleep(0.25)\n    return real(*args, **options)\n"
        "conversion.encode_video = slow\nconvert_calvin(sys.argv[1], sys.argv[2], progress=False, workers=1)\n"
    )
    staged = []
    for wanted in (1, 3):
        process = subprocess.Popen([sys.executable, "-c", script, str(root), str(out)])
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            staged = list((out / ".staging" / "episodes").glob("[0-9]*"))
            if len(staged) >= wanted:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
        assert wanted <= len(staged) < len(WINDOWS)
        with pytest.raises(InputError, match="meta/info.json is missing"):
            LeRobotDataset(out)
    result = convert_calvin(root, out, **QUIET)
    assert result.resumed >= 3 and result.episodes == 5 and "from an earlier call" in result.text()
    assert tree(out) == tree(converted)


def test_killed_while_joining(root, converted, tmp_path, monkeypatch):
    """What a kill leaves there: episodes put aside, a half-written `.partial`."""
    from hf_vpdd.data.lerobot_writer import LeRobotWriter

    class Killed(BaseException):
        pass

    real, calls = LeRobotWriter.add_encoded_episode, []

    def third_fails(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return real(self, *args)

    monkeypatch.setattr(LeRobotWriter, "add_encoded_episode", third_fails)
    monkeypatch.setattr(LeRobotWriter, "abort", lambda self: None)  # nobody tidies up after a kill
    with pytest.raises(Killed):
        convert_calvin(root, tmp_path / "out", **QUIET)
    assert (tmp_path / "out" / ".partial").is_dir()
    monkeypatch.undo()
    assert convert_calvin(root, tmp_path / "out", **QUIET).resumed == 5
    assert tree(tmp_path / "out") == tree(converted)


def test_a_second_call_does_nothing_and_another_is_refused(root, converted):
    before = tree(converted)
    assert convert_calvin(root, converted, **QUIET).finished_before
    assert tree(converted) == before
    with pytest.raises(InputError, match=r"holds another dataset: actions True \(now False\)"):
        convert_calvin(root, converted, actions=False, **QUIET)
    with pytest.raises(InputError, match=r"another dataset: split 'training' \(now 'validation'\)"):
        convert_calvin(root, converted, split="validation", **QUIET)
    with pytest.raises(InputError, match="neither empty nor a conversion"):
        convert_calvin(root / "training", root / "validation", **QUIET)
    with pytest.raises(InputError, match="OUT is the CALVIN folder itself"):
        convert_calvin(root / "training", root / "training", **QUIET)


def test_a_broken_frame_stops_it_and_when_repaired_it_goes_on(tmp_path, capsys):
    root = write_calvin(tmp_path / "task_D_D", sizes={"rgb_static": 32})
    broken = root / "training" / "episode_0000063.npz"
    broken.write_bytes(b"broken")
    out = tmp_path / "out"
    command = ["convert", "dataset", "--from", "calvin", str(root), str(out), "--workers", "1"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert str(broken) in error and "Traceback" not in error
    assert not (out / "meta").exists()
    write_frame(root / "training", 63, frame(63, {"rgb_static": 32}))
    assert main(command) == 0
    assert "2 episodes were there from an earlier call" in capsys.readouterr().out
    assert LeRobotDataset(out).num_episodes == 5


def test_a_frame_that_changed_since_is_read_again(tmp_path):
    sizes = {"rgb_static": 32}
    root, out = write_calvin(tmp_path / "task_D_D", sizes=sizes), tmp_path / "out"
    (root / "training" / "episode_0000075.npz").write_bytes(b"broken")
    with pytest.raises(InputError):
        convert_calvin(root, out, **QUIET)
    other = frame(41, sizes) | {"extra": np.zeros(9)}
    other["rel_actions"] = np.array([0.5] * 6 + [1.0])
    write_frame(root / "training", 41, other)
    write_frame(root / "training", 75, frame(75, sizes))
    assert convert_calvin(root, out, **QUIET).resumed == 3
    assert LeRobotDataset(out).episode(0)["action"][1, 0] == 0.5


def test_broken_windows_are_skipped_counted_and_listed(tmp_path, capsys):
    root, out = write_calvin(tmp_path / "task_D_D", sizes={"rgb_static": 32}), tmp_path / "out"
    (root / "training" / "episode_0000041.npz").write_bytes(b"broken")
    (root / "training" / "episode_0000070.npz").unlink()
    command = ["convert", "dataset", "--from", "calvin", str(root), str(out), "--workers", "1"]
    assert main(command) == 2 and "episode_0000070.npz is missing" in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 0
    assert "3 episodes were skipped" in capsys.readouterr().out
    assert LeRobotDataset(out).episodes.task == [SENTENCES[1], SENTENCES[2]]
    skipped = [json.loads(line) for line in (out / "meta" / "skipped.jsonl").read_text().splitlines()]
    assert sorted(one["window"] for one in skipped) == [0, 3, 4]
    assert all("episode_00000" in one["reason"] for one in skipped)


def test_nothing_usable_is_an_error(tmp_path):
    root = write_calvin(tmp_path / "task_D_D", sizes={"rgb_static": 32})
    for path in (root / "training").glob("episode_*.npz"):
        arrays = frame(int(path.stem[8:]), {"rgb_static": 32})
        np.savez(path, **arrays | {"rel_actions": np.full(7, np.nan)})
    with pytest.raises(InputError, match="none of the 5 episodes can be used; the first: .*rel_actions"):
        convert_calvin(root, tmp_path / "out", skip_bad=True, **QUIET)


def test_video_alone_and_some_of_each_task(root, tmp_path):
    convert_calvin(root, tmp_path / "video", actions=False, per_task=1, split="validation", **QUIET)
    dataset = LeRobotDataset(tmp_path / "video")
    assert dataset.num_episodes == 2 and dataset.tasks == list(dict.fromkeys(SENTENCES))[:2]
    assert "observation.state" in dataset.features and not {"action", "calvin.actions"} & set(dataset.features)
    with pytest.raises(InputError, match="per_task must be at least 1"):
        CalvinSource(CalvinDataset(root), per_task=0)


def test_a_dead_worker_is_said_and_nothing_is_lost(root, tmp_path, monkeypatch):
    from hf_vpdd.data import conversion

    def died(*args):
        raise RuntimeError(args[-1])

    monkeypatch.setattr(conversion, "run_jobs", died)
    with pytest.raises(RuntimeError, match="a worker died .* the same command continues"):
        convert_calvin(root, tmp_path / "out", workers=2, progress=False)
    monkeypatch.undo()
    assert convert_calvin(root, tmp_path / "out", **QUIET).episodes == 5
