"""Bridge V2 as numpy and TFRecord files."""

import json
import pickle

import numpy as np
import pytest

from hf_vpdd.cli import main
from hf_vpdd.data import BridgeArraysDataset, LeRobotDataset, open_dataset
from hf_vpdd.errors import InputError

from .robot_folders import (
    example,
    picture,
    trajectory_arrays,
    trajectory_tensors,
    write_bridge_npy,
    write_bridge_tfrecord,
)


WRITE = {"npy": write_bridge_npy, "tfrecord": write_bridge_tfrecord}


@pytest.fixture(params=WRITE)
def root(request, tmp_path):
    return WRITE[request.param](tmp_path / "bridge")


def test_what_is_in_the_file_comes_out_as_it_is(root):
    dataset = open_dataset(root, progress=False)
    assert isinstance(dataset, BridgeArraysDataset) and dataset.fps == 5
    assert dataset.episodes.length.tolist() == [8, 5] and dataset.cameras[0] == "images0"
    for number, length in enumerate((8, 5)):
        episode = dataset.episode(number)
        assert np.array_equal(episode["action"][:, 0], (np.arange(length) / 100).astype(np.float32))
        assert np.array_equal(episode["observation.state"][:, 0], np.arange(length, dtype=np.float32))
        assert np.array_equal(episode["observation.images.images0"], [picture(frame) for frame in range(length)])
    assert np.array_equal(dataset.frames("images0", 0, 3, 2), [picture(3), picture(4)])
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 20_000 and copy.fingerprint == dataset.fingerprint
    assert np.array_equal(copy.columns(["action"])["action"], dataset.columns(["action"])["action"])


def test_the_sentence_is_the_trajectorys_or_the_folders(tmp_path):
    dataset = BridgeArraysDataset(write_bridge_npy(tmp_path), progress=False)
    assert dataset.episodes.task == ["put pot on stove", "put the pot on the stove"]
    assert dataset.note(1) == {
        "file": "rss/toykitchen2/put_pot_on_stove/00/train/out.npy", "trajectory": 1, "task": "put pot on stove",
    }  # fmt: skip


def test_splits_files_and_cameras(tmp_path):
    root = write_bridge_npy(write_bridge_npy(tmp_path / "b"), "val", [trajectory_arrays(3)], task="open_drawer")
    assert BridgeArraysDataset(root, progress=False).num_episodes == 3
    assert BridgeArraysDataset(root, split="val", progress=False).tasks == ["open drawer"]
    file = root / "rss/toykitchen2/open_drawer/00/val/out.npy"
    one = open_dataset(file, progress=False)
    assert one.num_episodes == 1 and one.tasks == ["open drawer"] and one.cache_root == file.parent
    assert BridgeArraysDataset(root, cameras=["images1"], progress=False).cameras == ["images1"]
    with pytest.raises(InputError, match="split must be train or val"):
        BridgeArraysDataset(root, split="test", progress=False)
    with pytest.raises(InputError, match=r"asked for the cameras \['wrist'\]"):
        BridgeArraysDataset(root, cameras=["wrist"], progress=False)
    write_bridge_tfrecord(root)
    with pytest.raises(InputError, match="holds .npy and .tfrecord files"):
        BridgeArraysDataset(root, progress=False)


def test_the_command_converts_both_forms(root, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["convert", "dataset", "--from", "bridge", str(root), str(out), "--workers", "1", "--crf", "5"]
    assert main([*command, "--split", "train"]) == 0
    assert "2 episodes, 13 frames" in capsys.readouterr().out
    before, after = open_dataset(root, progress=False), LeRobotDataset(out)
    for number in range(2):
        one, two = before.episode(number), after.episode(number)
        assert np.array_equal(one["action"], two["action"]) and one["task"] == two["task"]
        error = one["observation.images.images0"].astype(float) - two["observation.images.images0"]
        assert 10 * np.log10(255**2 / (error**2).mean()) > 30
    notes = [json.loads(line) for line in (out / "meta/conversion.jsonl").read_text().splitlines()]
    assert [note["trajectory"] for note in notes] == [0, 1]
    assert main([*command, "--described-only"]) != 0 and "lang.txt" in capsys.readouterr().err


class Code:
    """Pickles to a call of `open`, which would make a file."""

    def __reduce__(self):
        return open, ("pwned", "w")


def _steps(**changes):
    steps = trajectory_arrays()["observations"]
    steps[3] = {key: value for key, value in {**steps[3], **changes}.items() if value is not None}
    return {"observations": steps}


# name -> (what is other in the second trajectory, part of the message)
BAD = {
    "no dictionary": ([1, 2], "expected a dictionary with observations and actions, found list"),
    "no actions": ({"observations": []}, r"expected a dictionary .* found \['observations'\]"),
    "no steps": (trajectory_arrays(observations=[]), "observations: expected a list of dictionaries"),
    "steps without states": (trajectory_arrays(observations=[{}]), "observations: expected a list of dictionaries"),
    "an action too few": (trajectory_arrays(actions=[np.zeros(7)] * 7), r"expected shape \(8, 7\), found \(7, 7\)"),
    "actions of text": (trajectory_arrays(actions=["a"] * 8), "actions: expected 8 rows of 7 numbers"),
    "a short state": (trajectory_arrays(**_steps(state=np.zeros(6))), "state: expected 8 rows of 7 numbers"),
    "NaN": (trajectory_arrays(actions=[np.full(7, np.nan)] * 8), "expected finite numbers, found .*nan.* in frame 0"),
    "a missing picture": (trajectory_arrays(**_steps(images0=None)), "images0 of step 3 is missing"),
    "a picture of another size": (trajectory_arrays(**_steps(images1=picture(1, 8))), "pictures of one size"),
    "a picture of floats": (
        trajectory_arrays(**_steps(images0=np.zeros((16, 16, 3)))),
        r"pictures of images0 \(episode 1\): expected uint8",
    ),
    "another camera": (trajectory_arrays(cameras=("images0",)), r"no pictures images1; this trajectory has"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_trajectory_is_named_or_left_out(tmp_path, case):
    content, message = BAD[case]
    root = write_bridge_npy(tmp_path, trajectories=[trajectory_arrays(), content])
    with pytest.raises(InputError, match=message) as error:
        dataset = BridgeArraysDataset(root, progress=False)
        dataset.episode(0), dataset.episode(1)
    assert "out.npy: trajectory 1" in str(error.value)
    dataset = BridgeArraysDataset(root, progress=False, skip_bad=True)
    dataset.episode(0)
    if dataset.num_episodes == 2:
        with pytest.raises(InputError, match=message):
            dataset.episode(1)
    else:
        assert [one["episode"].rsplit(":")[-1] for one in dataset.skipped] == ["1"]


def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write_bridge_npy(tmp_path, trajectories=[trajectory_arrays(), Code()])
    with pytest.raises(InputError, match=r"out.npy asks for \w+.open: .* refused .*--skip-bad|refused"):
        BridgeArraysDataset(root, progress=False)
    assert not (tmp_path / "pwned").exists()
    write_bridge_npy(tmp_path, "val")
    dataset = BridgeArraysDataset(tmp_path, progress=False, skip_bad=True)
    assert dataset.num_episodes == 2 and dataset.skipped[0]["episode"].endswith("train/out.npy")


@pytest.mark.parametrize("kind", WRITE)
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_broken_files(tmp_path, kind, damage):
    root = WRITE[kind](tmp_path)
    path = next(root.rglob("out.*"))
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-40], "empty": b"", "text": b"no such file, " * 9}[damage])
    with pytest.raises(InputError, match=f"out.{kind}|hold no trajectories"):
        BridgeArraysDataset(root, progress=False)


def test_tensors_that_do_not_fit(tmp_path):
    good = trajectory_tensors(8)
    cases = {
        "expected the features": {key: value for key, value in good.items() if key != "actions"},
        r"images0: expected 8 pictures": good | {"observations/images0": good["observations/images0"][:7]},
        r"state: expected shape \(8, 7\), found \(8, 6\)": good | {"observations/state": np.zeros((8, 6), np.float32)},
    }
    for number, (message, tensors) in enumerate(cases.items()):
        root = write_bridge_tfrecord(tmp_path / str(number), examples=[example(good), example(tensors)])
        with pytest.raises(InputError, match=f"trajectory 1.*{message}"):
            BridgeArraysDataset(root, progress=False)
        assert BridgeArraysDataset(root, progress=False, skip_bad=True).num_episodes == 1


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        BridgeArraysDataset(tmp_path / "x", progress=False)
    with pytest.raises(InputError, match="holds no out.npy or out.tfrecord"):
        BridgeArraysDataset(tmp_path, progress=False)
