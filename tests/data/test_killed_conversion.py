"""kill -9 of converters, wherever they are: nothing or a resumable state is left, and no byte differs in the end."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hf_vpdd.cli import main
from hf_vpdd.data import LeRobotDataset

from . import kill_points
from .robot_folders import write_bridge, write_bridge_npy, write_libero, write_rlbench, write_robomimic
from .video_files import even_times, write_ego4d, write_video


def write_videos(root):
    for number in range(3):
        write_video(root / f"{number}.mp4", even_times(10, 10), 100 * number + np.arange(10))
    return root


pytestmark = pytest.mark.timeout(900)  # half a minute of work, but on a busy machine

# CALVIN's converter has a test of its own in `test_conversion`.
# name -> (writes the source, number of its episodes, arguments of the converter)
SOURCES = {
    "video": (write_videos, 3, ["--image-size", "48"]),
    "ego4d": (write_ego4d, 3, ["--image-size", "48", "--fps", "5"]),
    "rlbench": (lambda root: write_rlbench(root, episodes=1), 2, []),
    "bridge": (write_bridge, 3, []),
    "bridge npy": (write_bridge_npy, 2, []),
    "libero": (lambda root: write_libero(root / "pick_demo.hdf5"), 2, []),
    "robomimic": (lambda root: write_robomimic(root / "can.hdf5", (7, 5)), 2, []),
}


def tree(folder):
    """Everything in a folder, empty folders too."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What one program reports that converts, kills and repeats all of them: {kind: its lines}."""
    if not hasattr(os, "fork"):
        pytest.skip("the program forks")
    root, plan = tmp_path_factory.mktemp("killed"), {}
    for kind, (write, _, options) in SOURCES.items():
        if kind in ("libero", "robomimic") and importlib.util.find_spec("h5py") is None:
            continue
        arguments = ["--from", kind.split()[0], str(write(root / kind)), *options]
        plan[kind] = {
            "arguments": arguments,
            "points": 3 if kind == "video" else 2,
            "ends": 6 if kind == "video" else 1,
        }
    child = subprocess.run(
        [sys.executable, kill_points.__file__, str(root / "out")], input=json.dumps(plan), capture_output=True,
        text=True, timeout=800,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    lines = [json.loads(line) for line in child.stdout.splitlines() if line[:1] == "{"]
    return root / "out", {kind: [line for line in lines if line["kind"] == kind] for kind in plan}, child.stderr


@pytest.mark.parametrize("kind", SOURCES)
def test_killed_at_any_point_and_repeated_no_byte_differs(kind, killed):
    out, lines, errors = killed
    if kind not in lines:
        pytest.skip("h5py is not installed")
    episodes, whole = SOURCES[kind][1], tree(out / kind / "whole")
    assert len(lines[kind]) >= 3 and LeRobotDataset(out / kind / "whole").num_episodes == episodes
    for line in lines[kind]:
        assert line["killed"] == -signal.SIGKILL, line
        # Not there for a reader, or there as a whole.
        assert line["found"] in ("nothing", f"{episodes} episodes") and line["again"] == 0, (line, errors)
        assert tree(Path(line["out"])) == whole, line
    assert {line["found"] for line in lines[kind]} == {"nothing", f"{episodes} episodes"}
    assert lines[kind][0]["found"] == "nothing"


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_of_a_killed_converter_end_too(tmp_path):
    """Else they would go on writing into the folder of the next call."""
    root = tmp_path / "clips"
    for number in range(6):
        write_video(root / f"{number}.mp4", even_times(60, 10), 100 * number + np.arange(60))
    # Called so, its workers import no models; see `hf_vpdd.registration`.
    program = "import sys; sys.argv[0] = 'hf-vpdd'; from hf_vpdd.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "convert", "dataset", "--from", "video", str(root)]
    options = ["--image-size", "192"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    out = tmp_path / "out"
    process = subprocess.Popen([*command, str(out), *options, "--workers", "2"], **quiet)
    end, workers = time.monotonic() + 120, []
    while time.monotonic() < end and process.poll() is None:
        if list((out / ".staging" / "episodes").glob("[0-9]*")):
            break
        time.sleep(0.005)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert len(workers) >= 2
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.02)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert not (out / "meta").exists()
    for folder in (out, tmp_path / "whole"):
        assert main(["convert", "dataset", "--from", "video", str(root), str(folder), *options, "--workers", "1"]) == 0
    assert tree(out) == tree(tmp_path / "whole")
