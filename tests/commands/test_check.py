import json
import shutil

import numpy as np
import pytest

from hf_vpdd.cli import main
from hf_vpdd.data.lerobot_writer import LeRobotWriter


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("check") / "arm"
    generator = np.random.default_rng(0)
    with LeRobotWriter(root, fps=20, features={"action": {"names": ["dx", "dy"]}}) as writer:
        for length in (30, 20):
            frames = generator.integers(0, 255, (length, 32, 32, 3), dtype=np.uint8)
            action = generator.normal(size=(length, 2))
            writer.add_episode({"observation.images.front": frames, "action": action}, "close it")
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "arm")


def _spoil_statistics(root):
    path = root / "meta/stats.json"
    stats = json.loads(path.read_text())
    stats["action"]["mean"] = [7.0, 0.0]
    path.write_text(json.dumps(stats))
    return path


def test_status_0_for_a_whole_dataset(root, capsys):
    assert main(["check", str(root)]) == 0
    text = capsys.readouterr().out
    assert "2 episodes, 50 frames; looked at 50 rows and 50 pictures" in text and "Nothing is wrong" in text


def test_a_table_status_1_and_json(root, capsys):
    _spoil_statistics(root)
    video = next((root / "videos").rglob("*.mp4"))
    video.write_bytes(video.read_bytes()[:500])
    assert main(["check", str(root)]) == 1
    text = capsys.readouterr().out
    assert "action" in text and "mean[0] is 7" in text and "To do:" in text and "errors, 0 warnings" in text
    assert main(["check", str(root), "--json", "--quick"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"] and report["counts"] == {"stats": 1, "broken-file": 1}
    broken = next(finding for finding in report["findings"] if finding["kind"] == "broken-file")
    assert broken["file"] == video.relative_to(root).as_posix() and broken["level"] == "error" and broken["fix"]
    assert main(["check", str(root), "--ignore", "stats", "broken-file"]) == 0
    assert main(["check", str(root), "--ignore", "statistics"]) == 2
    assert "no kind of finding 'statistics'" in capsys.readouterr().err


def test_statistics_are_mended(root, capsys):
    path = _spoil_statistics(root)
    pictures = json.loads(path.read_text())["observation.images.front"]
    assert main(["check", str(root)]) == 1
    assert main(["check", str(root), "--write-stats"]) == 0
    assert main(["check", str(root)]) == 0
    assert json.loads(path.read_text())["observation.images.front"] == pictures
    next((root / "videos").rglob("*.mp4")).unlink()
    assert main(["check", str(root), "--write-stats"]) == 2
    assert "missing-file" in capsys.readouterr().err


def test_warnings_can_be_left_out(tmp_path, capsys):
    with LeRobotWriter(tmp_path / "set", fps=20) as writer:
        writer.add_episode({"action": np.zeros((9, 2))}, "wait")
    assert main(["check", str(tmp_path / "set")]) == 1
    assert "0 errors, 2 warnings" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "set"), "--errors-only"]) == 0


def test_no_dataset_is_status_2(tmp_path, capsys):
    assert main(["check", str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_models_statistics_beside_the_datasets(root, tmp_path, capsys):
    from tests.pipelines.tiny_policy import tiny_policy

    policy, processor = tiny_policy()
    processor.save_pretrained(tmp_path / "policy")
    assert main(["check", str(root), "--model", str(tmp_path / "policy")]) == 1
    text = capsys.readouterr().out
    assert "state_stats, the dataset has no observation.state" in text
    assert main(["check", str(root), "--model", str(root)]) == 2
    assert "no processor can be loaded" in capsys.readouterr().err
