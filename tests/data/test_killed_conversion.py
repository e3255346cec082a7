"""kill -9 of converters, wherever they are: nothing or a resumable state is left, and no byte differs in the end."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hf_vpdd.data import LeRobotDataset

from . import kill_points
from .robot_folders import write_bridge, write_bridge_npy, write_libero, write_rlbench, write_robomimic
from .video_files import even_times, write_ego4d, write_video


def write_videos(root):
    for number in range(3):
        write_video(root / f"{number}.mp4", even_times(10, 10), 100 * number + np.arange(10))
    return root


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")
@pytest.mark.parametrize("kind", SOURCES)
def test_killed_at_any_point_and_repeated_no_byte_differs(kind, tmp_path):
    if kind in ("libero", "robomimic"):
        pytest.importorskip("h5py")
    write, episodes, options = SOURCES[kind]
    source = write(tmp_path / "source")
    points = ["3", "6"] if kind == "video" else ["2", "1"]
    command = [sys.executable, kill_points.__file__, str(tmp_path / "out"), *points]
    child = subprocess.run(
        [*command, "--from", kind.split()[0], str(source), *options], capture_output=True, text=True, timeout=280
    )
    assert child.returncode == 0, child.stderr
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    whole = tree(tmp_path / "out" / "whole")
    assert len(lines) >= 3 and LeRobotDataset(tmp_path / "out" / "whole").num_episodes == episodes
    for line in lines:
        assert line["killed"] == -signal.SIGKILL, line
        # Not there for a reader, or there as a whole.
        assert line["found"] in ("nothing", f"{episodes} episodes") and line["again"] == 0, (line, child.stderr)
        assert tree(tmp_path / "out" / line["out"]) == whole, line
    assert {line["found"] for line in lines} == {"nothing", f"{episodes} episodes"}
    assert lines[0]["found"] == "nothing"


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
    for number in range(8):
        write_video(root / f"{number}.mp4", even_times(60, 10), 100 * number + np.arange(60), size=96)
    # Called so, its workers import no models; see `hf_vpdd.registration`.
    program = "import sys; sys.argv[0] = 'hf-vpdd'; from hf_vpdd.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "convert", "dataset", "--from", "video", str(root)]
    options = ["--image-size", "96"]
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
        subprocess.run([*command, str(folder), *options, "--workers", "1"], check=True, **quiet, timeout=280)
    assert tree(out) == tree(tmp_path / "whole")
