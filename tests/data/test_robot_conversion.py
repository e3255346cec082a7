"""Robot datasets of other formats as LeRobot v3.0, by the command and resumed."""

import hashlib
import json
import pickle

import numpy as np
import pytest

from hf_vpdd.cli import main
from hf_vpdd.data import BridgeDataset, LeRobotDataset, RLBenchDataset, convert_source, open_dataset
from hf_vpdd.errors import InputError

from .robot_folders import write_bridge, write_libero, write_rlbench, write_robomimic


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make(kind, root):
    if kind in ("libero", "robomimic"):
        pytest.importorskip("h5py")
        write = write_libero if kind == "libero" else write_robomimic
        return write(root / "pick_up_the_bowl_demo.hdf5")
    return {"rlbench": lambda path: write_rlbench(path, episodes=1), "bridge": write_bridge}[kind](root / "data")


@pytest.mark.parametrize("kind", ["rlbench", "bridge", "libero", "robomimic"])
def test_the_command_keeps_every_number_and_the_pictures(kind, tmp_path, capsys):
    source = make(kind, tmp_path)
    out = tmp_path / "out"
    assert main(["convert", "dataset", "--from", kind, str(source), str(out), "--workers", "1", "--crf", "5"]) == 0
    before, after = open_dataset(source, progress=False), LeRobotDataset(out)
    assert f"{before.num_episodes} episodes, {before.num_frames} frames" in capsys.readouterr().out
    assert after.episodes.task == before.episodes.task and after.fps == before.fps
    assert after.cameras == before.cameras and after.info["robot_type"] == before.robot_type
    for index in range(before.num_episodes):
        one, two = before.episode(index), after.episode(index)
        for key, value in one.items():
            if key.startswith("observation.images."):
                error = value.astype(float) - two[key]
                assert 10 * np.log10(255**2 / (error**2).mean()) > 30, key
            elif key != "task_index":
                assert np.array_equal(np.asarray(value), np.asarray(two[key])), key
    assert after.features["observation.state"]["names"] == before.features["observation.state"]["names"]
    lines = [json.loads(line) for line in (out / "meta" / "conversion.jsonl").read_text().splitlines()]
    assert len(lines) == before.num_episodes and lines[1] == {"episode_index": 1, **before.note(1)}
    assert after.info["conversion"]["source"] == kind and str(tmp_path) not in (out / "meta/info.json").read_text()


def test_stopped_at_a_broken_episode_and_repaired_it_is_the_same_to_the_byte(tmp_path):
    root = write_rlbench(tmp_path / "train", episodes=2)
    options = {"workers": 1, "progress": False}
    convert_source(RLBenchDataset(root, progress=False), "rlbench", tmp_path / "whole", **options)
    path = root / "open_drawer/all_variations/episodes/episode1/low_dim_obs.pkl"
    good = path.read_bytes()
    path.write_bytes(good[:300])
    with pytest.raises(InputError, match="open_drawer/all_variations/episodes/episode1/low_dim_obs.pkl cannot be rea"):
        convert_source(RLBenchDataset(root, progress=False), "rlbench", tmp_path / "out", **options)
    assert not (tmp_path / "out" / "meta").exists()
    path.write_bytes(good)
    result = convert_source(RLBenchDataset(root, progress=False), "rlbench", tmp_path / "out", **options)
    assert (result.resumed, result.episodes) == (3, 4)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    again = convert_source(RLBenchDataset(root, progress=False), "rlbench", tmp_path / "out", **options)
    assert again.finished_before


@pytest.mark.parametrize("kind", ["rlbench", "bridge", "libero", "robomimic"])
def test_datasets_travel_to_other_processes(kind, tmp_path):
    """As the converter's workers get them; that their number changes no byte is tested with CALVIN."""
    dataset = open_dataset(make(kind, tmp_path), progress=False)
    content = pickle.dumps(dataset)
    assert len(content) < 20_000  # no pictures, no open files
    copy = pickle.loads(content)
    assert np.array_equal(copy.episode(1)["action"], dataset.episode(1)["action"])
    assert copy.fingerprint == dataset.fingerprint


def test_broken_episodes_are_skipped_and_listed_whenever_they_are_noticed(tmp_path, capsys):
    root = write_rlbench(tmp_path / "train", episodes=2)
    episodes = root / "close_jar/all_variations/episodes"
    (episodes / "episode0/variation_descriptions.pkl").write_bytes(pickle.dumps([]))  # when it is opened
    (root / "open_drawer/all_variations/episodes/episode1/wrist_rgb/3.png").unlink()  # when it is read
    command = ["convert", "dataset", "--from", "rlbench", str(root), str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--skip-bad"]) == 0
    assert "2 episodes were skipped (meta/skipped.jsonl)" in capsys.readouterr().out
    listed = [json.loads(line) for line in (tmp_path / "out/meta/skipped.jsonl").read_text().splitlines()]
    assert [line["episode"].split("/")[0] for line in listed] == ["close_jar", "open_drawer"]
    assert "3.png is missing" in listed[1]["reason"]
    assert LeRobotDataset(tmp_path / "out").num_episodes == 2


def test_one_camera_and_no_actions_make_captioned_video(tmp_path):
    root = write_rlbench(tmp_path / "train", episodes=1)
    dataset = RLBenchDataset(root, cameras=["wrist"], progress=False)
    convert_source(dataset, "rlbench", tmp_path / "out", actions=False, workers=1, progress=False)
    after = LeRobotDataset(tmp_path / "out")
    assert after.cameras == ["wrist"] and "action" not in after.features and "keyframe" not in after.features
    with pytest.raises(InputError, match="holds another dataset"):  # with actions it would be another
        convert_source(dataset, "rlbench", tmp_path / "out", workers=1, progress=False)


def test_writing_into_what_is_read_is_refused(tmp_path):
    root = write_bridge(tmp_path / "raw_data")
    for out in (root, root / "rss" / "out"):
        with pytest.raises(InputError, match="OUT lies in the dataset that is read"):
            convert_source(BridgeDataset(root, progress=False), "bridge", out, progress=False)


def test_the_wrong_layout_is_named(tmp_path, capsys):
    pytest.importorskip("h5py")
    path = write_libero(tmp_path / "pick_demo.hdf5")
    assert main(["convert", "dataset", "--from", "robomimic", str(path), str(tmp_path / "out")]) != 0
    assert "has the layout of libero: use --from libero" in capsys.readouterr().err


def test_info_shows_them(tmp_path, capsys):
    root = write_rlbench(tmp_path / "train", episodes=1)
    assert main(["info", str(root), "--no-sheet"]) == 0
    shown = capsys.readouterr().out
    assert "(RLBench, robot panda)" in shown and "close the red jar" in shown and "keyframe" in shown
