"""Trackers by name: which there are, what goes to them, what is said where one is missing."""

import json
import os
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from hf_vpdd.data.video import decode_video
from hf_vpdd.errors import InputError
from hf_vpdd.training import trackers as module
from hf_vpdd.training.loop import Evaluation, train
from hf_vpdd.training.trackers import gif_bytes, tracker_names

from .toy import ToyTask, toy_recipe


class Pictured(ToyTask):
    """A toy that has something to show."""

    def evaluate(self, model, generator, device, final):
        found = super().evaluate(model, generator, device, final)
        picture = np.arange(30 * 20 * 3, dtype=np.uint32).reshape(30, 20, 3).astype(np.uint8)
        video = np.stack([np.full((33, 47, 3), shade, np.uint8) for shade in (0, 120, 240)])
        return Evaluation(found.metrics, {"still": picture}, {"moving": video})


def recipe(folder, tracker, **more):
    settings = {"steps": 6, "save_every": 2, "eval_every": 2, "log_every": 2, "tracker": tracker}
    return toy_recipe(folder, **{**settings, **more})


def test_names():
    assert tracker_names("none") == [] and tracker_names("") == []
    assert tracker_names("wandb, tensorboard,wandb") == ["wandb", "tensorboard"]
    with pytest.raises(InputError, match="tensorboard, trackio, wandb, or none; got 'tensorbord'"):
        tracker_names("tensorbord")
    with pytest.raises(InputError, match="none stands alone"):
        tracker_names("none,wandb")


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "train"), ("trackio", "trackio"), ("wandb", "wandb")])
def test_what_is_missing_is_said_with_its_extra_before_anything_is_written(tmp_path, monkeypatch, name, extra):
    monkeypatch.setattr(module, "find_spec", lambda asked: None if asked == name else find_spec(asked))
    with pytest.raises(InputError, match=rf"{name} is not installed: pip install 'hf-vpdd\[{extra}\]'"):
        train(Pictured(), recipe(tmp_path / "run", f"tensorboard,{name}"))
    assert not (tmp_path / "run").exists()


def test_without_a_tracker_pictures_and_videos_are_files(tmp_path):
    train(Pictured(), recipe(tmp_path, "none"))
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        f"still-00000{step}.png" for step in (2, 4, 6)
    ]
    frames = decode_video(tmp_path / "videos" / "moving-000004.mp4")
    assert frames.shape == (3, 34, 48, 3)  # even sides, as mp4 needs
    assert np.abs(frames[:, :32, :46].astype(int) - np.array([0, 120, 240])[:, None, None, None]).max() < 12
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_has_curves_options_pictures_and_moving_ones(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(Pictured(), recipe(tmp_path, "tensorboard"))
    folder = tmp_path / "tensorboard" / "hf-vpdd"
    events = EventAccumulator(str(folder))
    events.Reload()
    scalars = events.Tags()["scalars"]
    for name in ("train/loss", "val/loss", "speed/samples_per_second", "speed/peak_memory_gb"):
        assert name in scalars
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6]
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert events.Scalars("train/loss")[0].value == pytest.approx(first["train/loss"])
    assert {"still", "moving"} <= {tag.split("/")[0] for tag in events.Tags()["images"]}
    assert events.Images("moving")[0].encoded_image_string.startswith(b"GIF89a")
    assert "learning_rate" in next(folder.glob("*/hparams.yml")).read_text()


def test_a_gif_moves():
    from io import BytesIO

    from PIL import Image

    frames = np.stack([np.full((8, 8, 3), shade, np.uint8) for shade in (0, 100, 200)])
    gif = Image.open(BytesIO(gif_bytes(frames, 8)))
    assert gif.n_frames == 3
    gif.seek(2)
    assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - 200).max() < 8


def test_speed_is_not_in_the_file_that_resumed_runs_repeat(tmp_path):
    train(Pictured(), recipe(tmp_path, "none"))
    assert "speed/" not in (tmp_path / "metrics.jsonl").read_text()


def test_trackio_gets_numbers_options_pictures_and_videos(tmp_path):
    pytest.importorskip("trackio")
    script = (
        "import sys; from hf_vpdd.training.loop import train; from tests.training.test_trackers import *; "
        "train(Pictured(), recipe(sys.argv[1], 'trackio', run_name='a-run'))"
    )
    # a process of its own: trackio reads its folder from the environment once
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], check=True, cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")},
    )  # fmt: skip
    files = [path for path in (tmp_path / "trackio").rglob("*") if path.is_file()]
    assert any(path.suffix == ".mp4" for path in files) and any(path.suffix == ".png" for path in files)
    database = next(path for path in files if path.name == "hf-vpdd.db")
    with sqlite3.connect(database) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type='table'")]
        text = "".join(str(row) for table in tables for row in connection.execute(f"select * from '{table}'"))
    assert "train/loss" in text and "val/loss" in text and "a-run-" in text and "train.learning_rate" in text


def test_wandb_offline_gets_a_run_with_its_name_and_goes_on_with_it(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(Pictured(), recipe(tmp_path, "wandb,tensorboard", run_name="a-run", schedule="constant"))
    (first,) = (tmp_path / "wandb").glob("offline-run-*")
    content = next(first.glob("*.wandb")).read_bytes()
    assert b"train/loss" in content and b"a-run" in content and b"train.learning_rate" in content
    media = [path.suffix for path in first.rglob("media/**/*") if path.is_file()]
    assert ".png" in media and ".mp4" in media
    identity = (tmp_path / "tracker_run.txt").read_text().strip()
    assert first.name.endswith(identity)
    train(Pictured(), recipe(tmp_path, "wandb", run_name="a-run", schedule="constant", steps=8))
    assert (tmp_path / "tracker_run.txt").read_text().strip() == identity
    assert all(path.name.endswith(identity) for path in (tmp_path / "wandb").glob("offline-run-*"))


def test_a_tracker_that_does_not_start_is_an_error_in_words(tmp_path, monkeypatch):
    from accelerate import Accelerator

    def refuse(*args, **kwargs):
        raise RuntimeError("no API key configured")

    monkeypatch.setattr(Accelerator, "init_trackers", refuse)
    with pytest.raises(InputError, match="train.tracker tensorboard did not start: RuntimeError: no API key"):
        train(Pictured(), recipe(tmp_path, "tensorboard"))
