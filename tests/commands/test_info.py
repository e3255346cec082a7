import json

import numpy as np
import pytest
from PIL import Image

from hf_vpdd.cli import main
from hf_vpdd.data.lerobot_writer import LeRobotWriter


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("info") / "arm"
    with LeRobotWriter(root, fps=20, robot_type="sawyer", features={"action": {"names": ["dx", "dy"]}}) as writer:
        red, blue, black = (250, 0, 0), (0, 0, 250), (0, 0, 0)
        for length, task, colour in ((10, "öffne die Tür", red), (30, "close it", blue), (20, "close it", black)):
            frames = np.full((length, 32, 32, 3), colour, np.uint8)
            action = np.zeros((length, 2))
            writer.add_episode({"observation.images.front": frames, "action": action}, task)
    return root


def test_tables_and_contact_sheet(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["info", str(root)]) == 0
    text = capsys.readouterr().out
    assert "3 episodes, 60 frames at 20 per second (3 s); 10 to 30 frames" in text
    assert "observation.images.front  video" in text and "dx, dy" in text
    assert [line.split()[-2:] for line in text.splitlines() if "close it" in line] == [["2", "50"]]
    with Image.open(tmp_path / "outputs" / "info" / "arm.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    # A red row for the first task, a blue one for the second.
    red, blue = (np.abs(pixels - colour).max(axis=-1) < 30 for colour in ((250, 0, 0), (0, 0, 250)))
    assert red.sum() == pytest.approx(6 * 128**2, rel=0.01) and blue.sum() == pytest.approx(6 * 128**2, rel=0.01)
    assert np.flatnonzero(red.any(axis=1)).max() < np.flatnonzero(blue.any(axis=1)).min()


def test_json(root, capsys):
    assert main(["info", str(root), "--json", "--no-sheet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames"] == 60 and summary["cameras"] == ["front"] and summary["contact_sheet"] is None
    assert {"task": "close it", "episodes": 2, "frames": 50} in summary["tasks"]
    assert summary["features"]["action"] == {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]}


def test_wrong_camera_and_folder_exit_with_2(root, tmp_path, capsys):
    assert main(["info", str(root), "--camera", "wrist", "--out", str(tmp_path / "a.png")]) == 2
    assert "no camera 'wrist'; its cameras are ['front']" in capsys.readouterr().err
    assert main(["info", str(tmp_path)]) == 2
    assert "meta/info.json is missing" in capsys.readouterr().err and not list(tmp_path.iterdir())
