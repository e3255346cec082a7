"""examples/slurm/train.sh with the real launcher and two real processes; only SLURM's two commands are stand-ins."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_vpdd.training.checkpoints import list_checkpoints


ROOT = Path(__file__).resolve().parents[2]
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
export SLURM_NODEID=0
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$(dirname "$0")/requeued"; fi
"""


@pytest.fixture
def queue(tmp_path):
    """Environment of a job, and the folder of the stand-ins."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    launcher = folder / "accelerate"
    launcher.write_text(f'#!/bin/bash\nshift\nexec {sys.executable} -m accelerate.commands.launch "$@"\n')
    launcher.chmod(0o755)
    job = {"SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_NODELIST": "n0", "SLURM_JOB_ID": "7"}
    paths = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    config = {"ACCELERATE_CONFIG": str(ROOT / "recipes/accelerate/fsdp2_cpu_test.yaml")}
    return {**os.environ, **job, **paths, **config}, folder


def submit(environment, *words) -> subprocess.Popen:
    command = ["bash", "examples/slurm/train.sh", *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_stopped_job_saves_is_put_back_and_goes_on(queue, tmp_path):
    environment, folder = queue
    words = ("-m", "tests.training.toy", tmp_path / "out", "--steps", "24", "--save_every", "4")
    job = submit(environment, *words, "--sleep", "0.25")
    deadline = time.monotonic() + 240
    while not list_checkpoints(tmp_path / "out"):
        assert job.poll() is None, job.stdout.read()
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    output = job.communicate(timeout=240)[0]
    assert job.returncode == 0, output
    assert "SIGTERM: saved step" in output
    assert (folder / "requeued").read_text() == "requeue 7\n"
    assert not (tmp_path / "out" / "model.safetensors").exists()
    again = submit(environment, *words)
    output = again.communicate(timeout=240)[0]
    assert again.returncode == 0, output
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert (folder / "requeued").read_text() == "requeue 7\n"  # once


def test_a_job_that_fails_is_not_put_back(queue, tmp_path):
    environment, folder = queue
    job = submit(environment, "-m", "tests.training.toy", tmp_path / "out", "--no_such_option", "1")
    output = job.communicate(timeout=240)[0]
    assert job.returncode != 0, output
    assert not (folder / "requeued").exists()
