"""`hf-vpdd tokenize`: what it writes, that processes and kills leave the same bytes, what it refuses."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from hf_vpdd import VPDDVQVAE
from hf_vpdd.cli import main
from hf_vpdd.data import FrameStore
from hf_vpdd.data.lerobot_writer import LeRobotWriter
from hf_vpdd.data.token_shards import open_codes, read_index
from hf_vpdd.training.stages.common import weights_fingerprint
from tests.data.small_tokenizers import write_vqvae


SIZE, FRAMES = 16, 160  # as `write_vqvae` has it; of the dataset
ROOT = Path(__file__).resolve().parents[2]


def write_dataset(root, lengths, cameras=("front", "wrist")):
    generator = np.random.default_rng(0)
    with LeRobotWriter(root, fps=20) as writer:
        for length in lengths:
            pictures = {
                f"observation.images.{camera}": generator.integers(0, 255, (length, SIZE, SIZE, 3), dtype=np.uint8)
                for camera in cameras
            }
            writer.add_episode(pictures | {"action": generator.normal(size=(length, 2))}, "close it")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset, a tokenizer, and the codes of one process in `whole`."""
    place = tmp_path_factory.mktemp("tokenize")
    write_dataset(place / "arm", (7, 90, 63))
    write_vqvae(place / "vqvae")
    assert main(command(place, "--out", place / "whole", "--camera", "front", "--json")) == 0
    return place


def command(place, *options):
    given = {"--vqvae": place / "vqvae", "--shard-size": 5, "--batch-size": 2}
    words = [] if "--vqvae" in options else ["--vqvae", given["--vqvae"]]
    for name in ("--shard-size", "--batch-size"):
        words += [] if name in options else [name, given[name]]
    return ["tokenize", *map(str, [place / "arm", *words, *options])]


def contents(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


def test_every_camera_beside_the_dataset(place, capsys):
    assert main(command(place)) == 0
    text = capsys.readouterr().out
    assert "camera front: 160 frames, 8 codes each (2 x 2 x 2)" in text and "camera wrist: 160 frames" in text
    assert "of 24 codes occur, perplexity" in text
    folders = sorted((place / "arm/.cache/hf_vpdd").glob("codes-*"))
    assert len(folders) == 2 and contents(place / "whole/arm-front") in [contents(folder) for folder in folders]
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.iterdir()}
    assert main(command(place, "--json")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [one["camera"] for one in summary["cameras"]] == ["front", "wrist"] and summary["fps"] == 20
    assert before == {path: path.stat().st_mtime_ns for folder in folders for path in folder.iterdir()}


def test_what_the_index_says_and_the_codes_are(place):
    index = read_index(place / "whole/arm-front")
    vqvae = VPDDVQVAE.from_pretrained(place / "vqvae")
    assert index.tokenizer == weights_fingerprint(vqvae) and index.num_frames == FRAMES and index.num_shards == 32
    assert (index.dataset, index.camera, index.image_size, index.fps) == ("arm", "front", SIZE, 20.0)
    codes = open_codes(place / "whole/arm-front")
    assert codes.shape == (FRAMES, 2, 2, 2) and codes[:].max() < 24
    assert len(np.unique(codes[:])) == index.codes_used > 1
    store = FrameStore.build(place / "arm", "front", SIZE, place / "frames", progress=False)
    assert store.fingerprint == index.frames
    rows = np.array([0, 7, 8, 97, 159])
    pixels = torch.from_numpy(store.clips(rows, 2)).permute(0, 4, 1, 2, 3) / 255.0 - 0.5
    assert (vqvae.encode(pixels).numpy() == codes[rows]).all()


def test_two_processes_killed_and_run_again_leave_the_bytes_of_one(place, tmp_path):
    """A real `accelerate launch`, killed with SIGKILL in the middle."""
    words = command(place, "--out", tmp_path, "--camera", "front", "--json", "--device", "cpu")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += [
        "--num_machines",
        "1",
        "--main_process_port",
        "0",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
        "hf_vpdd.cli",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(launch + words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder, end = tmp_path / "arm-front", time.monotonic() + 300
    while not len(list(folder.glob("codes-*.npy"))) > 1 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    # The launcher puts its workers into groups of their own.
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        one.send_signal(signal.SIGKILL)
    output = process.communicate()[0].decode()
    assert len(list(folder.glob("codes-*.npy"))) > 1, output
    assert not read_index(folder).complete
    half = {path.name: path.stat().st_mtime_ns for path in folder.glob("codes-*.npy")}
    again = subprocess.run(launch + words, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout.strip().splitlines()[-1])["processes"] == 2
    assert contents(folder) == contents(place / "whole/arm-front")
    assert half.items() <= {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}.items()
    assert not list(folder.glob(".codes*"))


def test_the_tokenizer_of_a_policy_is_the_same_tokenizer(place, tmp_path, capsys):
    from hf_vpdd.training import load_recipe, run_pretrain
    from tests.training.small_data import experiment, write_dataset

    data = write_dataset(tmp_path / "data", 2, length=8)
    config = experiment(data, tmp_path / "out")
    config["train"] |= {"steps": 1, "save_every": 0, "eval_every": 0, "tracker": "none"}
    write_vqvae(tmp_path / "vqvae", image_size=32, clip_frames=1)
    folder = run_pretrain(load_recipe("pretrain", config, {"init_from": str(tmp_path / "vqvae")}))
    for checkpoint in (tmp_path / "vqvae", folder):
        assert main(["tokenize", str(data), "--vqvae", str(checkpoint), "--json"]) == 0
    one, two = map(json.loads, capsys.readouterr().out.strip().splitlines())
    assert one["tokenizer"] == two["tokenizer"] and one["cameras"][0]["folder"] == two["cameras"][0]["folder"]


def test_check_reads_all_codes(place, tmp_path, capsys):
    folder = shutil.copytree(place / "whole/arm-front", tmp_path / "codes")
    assert main(["check", str(folder)]) == 0
    assert "160 frames of arm, camera front, in 32 shards" in capsys.readouterr().out
    shard = folder / "codes-00003.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    assert main(["check", str(folder), "--json"]) == 1
    assert ["codes-00003.npy was altered" in text for text in json.loads(capsys.readouterr().out)["findings"]] == [
        True
    ]
    assert main(["check", str(folder)]) == 1
    assert "with --verify makes these shards anew" in capsys.readouterr().out
    whole = tmp_path / "out" / "arm-front"
    shutil.copytree(folder, whole)
    assert main(command(place, "--out", tmp_path / "out", "--camera", "front", "--verify", "--json")) == 0
    assert contents(whole) == contents(place / "whole/arm-front")


def foreign_model(place, tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "clip"}')
    return ["--vqvae", tmp_path / "clip"]


def cut_weights(place, tmp_path):
    folder = shutil.copytree(place / "vqvae", tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    return ["--vqvae", folder]


def full_folder(place, tmp_path):
    (tmp_path / "arm-front").mkdir()
    (tmp_path / "arm-front" / "letter.txt").write_text("mine")
    return ["--out", tmp_path, "--camera", "front"]


def foreign_codes(place, tmp_path):
    write_vqvae(tmp_path / "other", seed=1)
    return ["--out", place / "whole", "--camera", "front", "--vqvae", tmp_path / "other"]


def other_clips(place, tmp_path):
    write_vqvae(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text()) | {"clip_frames": 1}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    return ["--out", place / "whole", "--camera", "front", "--vqvae", tmp_path / "other"]


def unfinished(place, tmp_path):
    shutil.copytree(place / "whole" / "arm-front", tmp_path / "arm-front")
    index = read_index(tmp_path / "arm-front")
    index.complete = False
    index.write(tmp_path / "arm-front")
    return ["--out", tmp_path, "--camera", "front", "--shard-size", "6"]


def in_the_way(place, tmp_path):
    (tmp_path / "out").write_text("a file")
    return ["--out", tmp_path / "out"]


BAD = {
    "no tokenizer folder": (lambda p, t: ["--vqvae", t / "nothing"], "no model can be loaded from there"),
    "a folder without a model": (lambda p, t: ["--vqvae", t], "config.json is missing"),
    "another kind of model": (foreign_model, "of type 'clip'; needed is a VQ-VAE"),
    "weights that are cut": (cut_weights, "no model can be loaded from there"),
    "no such camera": (lambda p, t: ["--camera", "back"], "has no camera 'back'; its cameras are ['front', 'wrist']"),
    "fps of a robot": (lambda p, t: ["--fps", "10"], "20 frames per second of its own"),
    "fps": (lambda p, t: ["--fps", "0"], "--fps must be above 0, got 0"),
    "image size": (lambda p, t: ["--image-size", "0"], "--image-size must be above 0"),
    "batch size": (lambda p, t: ["--batch-size", "-4"], "--batch-size must be above 0, got -4"),
    "shard size": (lambda p, t: ["--shard-size", "0"], "--shard-size must be above 0"),
    "bf16 on a CPU": (lambda p, t: ["--dtype", "bfloat16", "--device", "cpu"], "is for GPUs"),
    "other files there": (full_folder, "holds other files and no tokens.json"),
    "codes of another tokenizer": (foreign_codes, "were made with tokenizer '"),
    "other clips": (other_clips, "were made with clip_frames 2, needed is 1"),
    "other frames": (
        lambda p, t: ["--out", p / "whole", "--camera", "front", "--image-size", "32"],
        "made with frames",
    ),
    "another shard size": (unfinished, "begun with shard_size 5, not 6"),
    "a file in the way": (in_the_way, "cannot be written to"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_line(place, tmp_path, capsys, name):
    options, message = BAD[name]
    before = contents(place / "whole/arm-front")
    assert main(command(place, *options(place, tmp_path))) == 2
    error = capsys.readouterr().err
    assert message in error and "\nhf-vpdd tokenize: " in "\n" + error and "Traceback" not in error
    assert contents(place / "whole/arm-front") == before


def test_datasets_that_are_missing_or_broken(place, tmp_path, capsys):
    options = ["--vqvae", str(place / "vqvae"), "--out", str(tmp_path / "out")]
    assert main(["tokenize", str(tmp_path / "nothing"), *options]) == 2
    assert "does not exist" in capsys.readouterr().err
    root = shutil.copytree(place / "arm", tmp_path / "arm", ignore=shutil.ignore_patterns(".cache"))
    video = next(root.glob("videos/**/*.mp4"))
    video.write_bytes(video.read_bytes()[:-4000])
    assert main(["tokenize", str(root), *options]) == 2
    assert str(video) in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["tokenize", str(place / "arm")])
    assert "--vqvae" in capsys.readouterr().err
