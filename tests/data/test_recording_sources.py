import json
import sys

import numpy as np
import pytest

from hf_vpdd.data import recording
from hf_vpdd.data.frame_store import FrameStore
from hf_vpdd.data.lerobot import LeRobotDataset
from hf_vpdd.data.recording_sources import SOURCES
from hf_vpdd.errors import InputError


GIVEN = dict(
    tasks="push", episodes_per_task=2, seed=1000, cameras=None, image_size=32, noise=(0.0, 0.2), actions=None,
    paraphrases=False, protocol="lean", max_steps=None, pix_fmt="yuv444p", crf=18,
)  # fmt: skip


def test_a_source_fills_in_what_was_not_said():
    plan = recording._make_plan(**GIVEN, source="fetch")
    assert (plan.tasks, plan.cameras, plan.actions, plan.max_steps) == (("fetch-push",), ("front",), False, 96)
    assert plan.sentence("fetch-push", 1) == "push the block to the red ball"
    assert plan.to_dict()["source"] == "fetch"
    robot = recording._make_plan(**GIVEN | {"tasks": "push-v3"})
    assert (robot.cameras, robot.actions, robot.max_steps) == (("corner2",), True, 200)
    assert "source" not in robot.to_dict()  # recordings made before there were sources are still the same plan


@pytest.mark.parametrize(
    "change, message",
    [
        ({"source": "octopus"}, "metaworld, fetch, adroit, kitchen"),
        ({"actions": True}, "fetch is filmed without actions"),
        ({"cameras": ("corner2",)}, "fetch has one camera, 'front'"),
        ({"paraphrases": True}, "neither paraphrases"),
        ({"tasks": "drawer-close"}, "fetch has no scene"),
    ],
)
def test_what_a_body_cannot_do_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        recording._make_plan(**{**GIVEN, "source": "fetch", **change})


def test_every_source_is_a_choice_of_the_command():
    from hf_vpdd.cli import main

    with pytest.raises(SystemExit):
        main(["record", "--help"])
    assert set(SOURCES) == {"metaworld", "fetch", "adroit", "kitchen"}


def test_a_body_is_recorded_without_states_and_actions(tmp_path, monkeypatch):
    pytest.importorskip("gymnasium_robotics")
    monkeypatch.setattr(sys, "argv", ["hf-vpdd"])  # spawned workers import no models
    arguments = dict(tasks="push", episodes_per_task=2, image_size=32, max_steps=12, source="fetch", progress=False)
    root = recording.record(tmp_path / "fetch", **arguments, workers=1)
    dataset = LeRobotDataset(root)
    assert len(dataset) == 2 and dataset.cameras == ["front"] and dataset.num_frames == 24
    assert "action" not in dataset.features and "observation.state" not in dataset.features
    info = json.loads((root / "meta" / "info.json").read_text())
    assert info["robot_type"] == "fetch" and info["recording"]["source"] == "fetch"
    store = FrameStore.build(root, "front", 32, tmp_path / "cache", progress=False)
    assert store.state is None and store.action is None and store.frames[:].std() > 10
    assert np.abs(store.frames[11].astype(int) - store.frames[0]).mean() > 0.2
    assert recording.record(root, **arguments) == root  # complete: nothing is recorded again
    with pytest.raises(InputError, match="another dataset"):
        recording.record(root, **arguments | {"seed": 1001})
