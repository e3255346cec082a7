"""Adapters on the Hub: the commit of the base is remembered, and every way in brings the adapter's own processor."""

import numpy as np

from hf_vpdd import RobotPolicy, VPDDProcessor, save_policy
from tests.fakehub import FakeHub
from tests.pipelines.test_adapters import GREEDY, OBSERVATION
from tests.pipelines.tiny_policy import demonstrations, tiny_policy
from tests.test_saving import _answers, _python


# Base and adapter go to the Hub; then a robot, with an empty cache, loads the adapter by its name alone.
PUSH_AND_LOAD = """
import json, sys
from pathlib import Path
import numpy as np, torch
import hf_vpdd
from hf_vpdd import RobotPolicy, VPDDForRobotPolicy, VPDDPipeline
from hf_vpdd.cli import main
from transformers import AutoModel, AutoProcessor, pipeline
from tests.pipelines.test_adapters import GREEDY, OBSERVATION, adapted, logits

folder = Path(sys.argv[1])
VPDDPipeline.from_pretrained(folder / "base").push_to_hub("me/base")
processor = AutoProcessor.from_pretrained(folder / "other")
trained = adapted("me/base", folder / "adapter", processor=processor)
VPDDPipeline.from_pretrained(folder / "adapter").push_to_hub("me/adapter")
record = json.loads((folder / "adapter" / "adapter_base.json").read_text())

answers = {"record": record, "card": (folder / "adapter" / "README.md").read_text()}
model = AutoModel.from_pretrained("me/adapter")
answers["auto"] = torch.equal(logits(model), logits(trained))
answers["class"] = torch.equal(logits(VPDDForRobotPolicy.from_pretrained("me/adapter")), logits(trained))
plans = {"policy": RobotPolicy.from_pretrained("me/adapter", device="cpu", **GREEDY).predict(OBSERVATION).actions[0]}
plans["pipeline"] = pipeline("robot-policy", model="me/adapter", device="cpu")(OBSERVATION, **GREEDY)["actions"]
arguments = OBSERVATION["images"], OBSERVATION["instruction"], OBSERVATION["state"]
plans["diffusers"] = VPDDPipeline.from_pretrained("me/adapter")(*arguments, **GREEDY).actions[0]
pipe = VPDDPipeline.from_pretrained("me/base")
pipe.load_lora_weights("me/adapter")
plans["load_lora_weights"] = pipe(*arguments, **GREEDY).actions[0]
assert main(["merge", "me/adapter", "--out", str(folder / "merged")]) == 0
merged = RobotPolicy.from_pretrained(folder / "merged", device="cpu", **GREEDY)
plans["merged"] = merged.predict(OBSERVATION).actions[0]
answers["plans"] = {name: plan.tolist() for name, plan in plans.items()}
given = pipeline("robot-policy", model="me/adapter", processor=processor, device="cpu")
answers["given"] = given.processor is processor
print("ANSWERS " + json.dumps(answers))
"""


def test_an_adapter_on_the_hub_knows_its_base_and_brings_its_processor(tmp_path):
    model, processor = tiny_policy()
    save_policy(tmp_path / "base", model, processor)
    actions, state = demonstrations()
    other = VPDDProcessor.from_dataset_stats(  # a robot that moves a third as far
        actions / 3, state, processor.tokenizer, num_action_bins=7, image_size=16, chunk_size=3,
        max_instruction_length=20,
    )  # fmt: skip
    save_policy(tmp_path / "other", model, other)
    with FakeHub() as hub:
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_fake",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        answers = _answers(_python(PUSH_AND_LOAD, tmp_path, **environment))
        commit = hub.hub.repos[("model", "me/base")]["sha"]
        stored = set(hub.hub.repos[("model", "me/adapter")]["files"])
        assert not [entry for entry in hub.hub.log if entry[0] == "UNHANDLED"]
    assert answers["record"]["name"] == "me/base" and answers["record"]["revision"] == commit
    assert "base_model: me/base" in answers["card"] and commit in answers["card"]
    assert "adapter_model.safetensors" in stored and "model.safetensors" not in stored
    assert {"processor_config.json", "config.json", "adapter_base.json"} <= stored
    assert answers["auto"] and answers["class"] and answers["given"]
    local = RobotPolicy.from_pretrained(tmp_path / "merged", device="cpu", **GREEDY).predict(OBSERVATION).actions[0]
    assert np.abs(local).max() <= 1 / 3 + 1e-6  # in the units of the adapter's robot, not of its base's
    for name, plan in answers["plans"].items():
        np.testing.assert_allclose(plan, local, atol=1e-5, err_msg=name)
