"""Every family to the Hub and back: parts, pipelines, adapters; loaded in a process that never imports hf_vpdd."""

import pytest

from tests.fakehub import FakeHub
from tests.hub.processes import answers, environment, python


PUSH = """
import json, sys
import hf_vpdd
from hf_vpdd.pipelines.robot_policy import RobotPolicyPipeline
from tests.hub.families import acts, build, checksum, statistics

def adapter(model, processor, folder):
    import torch
    from peft import LoraConfig, get_peft_model
    adapted = get_peft_model(model, LoraConfig(target_modules=r"(model.trunk|action_head).layers.0.fc[12]", r=2))
    for name, tensor in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.1)
    adapted.save_pretrained(folder)
    processor.save_pretrained(folder)
    hf_vpdd.push_to_hub(folder, "me/adapter", base_model="me/vpdd-policy-pipe")
    return {"actions": acts(RobotPolicyPipeline(adapted.merge_and_unload(), processor=processor, device="cpu"))}


found = {}
for name, (model, processor) in build().items():
    model.push_to_hub(f"me/{name}", private=True)
    found[name] = {"checksum": checksum(model), "type": type(model).__name__}
    if processor is not None:
        processor.push_to_hub(f"me/{name}")
        found[name]["statistics"] = statistics(processor)
    if name.endswith("policy"):
        pipe = RobotPolicyPipeline(model, processor=processor, device="cpu")
        found[name]["actions"] = acts(pipe)
        pipe.push_to_hub(f"{name}-pipe")  # in the user's own name space
        if name == "vpdd-policy":
            found["adapter"] = adapter(model, processor, sys.argv[1] + "/adapter")
print("ANSWERS " + json.dumps(found))
"""

PULL = """
import json, sys
from transformers import AutoModel, AutoProcessor, pipeline

first = sys.argv[1]  # which of the three meets the shim first
found = {}
if first == "AutoProcessor":
    AutoProcessor.from_pretrained("me/gr1-policy", trust_remote_code=True)
elif first == "pipeline":
    pipeline("robot-policy", "me/vptr-policy-pipe", trust_remote_code=True, device="cpu")
else:
    AutoModel.from_pretrained("me/vqvae", trust_remote_code=True)
if len(sys.argv) > 2:
    from tests.hub.families import acts, checksum, statistics
    for name in sys.argv[2:]:
        model = AutoModel.from_pretrained(f"me/{name}", trust_remote_code=True)
        found[name] = {"checksum": checksum(model), "type": type(model).__name__}
        if name != "vqvae":
            found[name]["statistics"] = statistics(AutoProcessor.from_pretrained(f"me/{name}", trust_remote_code=True))
        if name.endswith("policy"):
            pipe = pipeline("robot-policy", f"me/{name}-pipe", trust_remote_code=True, device="cpu")
            found[name]["actions"] = acts(pipe)
    from hf_vpdd import RobotPolicyPipeline, VPDDPipeline  # from here on as with the package imported
    processor = AutoProcessor.from_pretrained("me/adapter")
    model = AutoModel.from_pretrained("me/adapter")
    found["adapter"] = {"actions": acts(RobotPolicyPipeline(model, processor=processor, device="cpu"))}
    found["diffusers"] = type(VPDDPipeline.from_pretrained("me/vpdd-policy-pipe").model).__name__
print("ANSWERS " + json.dumps(found))
"""

FAMILIES = ["vqvae", "vpdd-video", "vpdd-policy", "gr1-video", "gr1-policy", "vptr-value", "vptr-policy"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The Hub after everything was pushed, and what the process that pushed says of it."""
    home = tmp_path_factory.mktemp("pushed")
    with FakeHub() as hub:
        pushed = answers(python(PUSH, home, env=environment(hub.url, home / "home")))
        yield hub, pushed


def test_every_family_comes_back_as_it_went(hub, tmp_path):
    server, pushed = hub
    pulled = answers(python(PULL, "AutoModel", *FAMILIES, env=environment(server.url, tmp_path)))
    assert pulled.pop("diffusers") == "VPDDForRobotPolicy"
    assert pulled == pushed
    assert not [entry for entry in server.hub.log if entry[0] == "UNHANDLED"]


@pytest.mark.parametrize("first", ["AutoProcessor", "pipeline"])
def test_any_of_them_may_come_first(hub, tmp_path, first):
    assert answers(python(PULL, first, env=environment(hub[0].url, tmp_path))) == {}


def test_every_repository_has_the_layout_and_a_card_of_this_package(hub):
    repositories = {name.removeprefix("me/"): repo["files"] for (_, name), repo in hub[0].hub.repos.items()}
    assert set(repositories) == {*FAMILIES, *(f"{n}-policy-pipe" for n in ("vpdd", "gr1", "vptr")), "adapter"}
    for name, files in repositories.items():
        assert "hf_vpdd_auto.py" in files, name
        card = files["README.md"].decode()
        assert "library_name: hf_vpdd" in card and "pipeline_tag: robotics" in card, name
        assert "More Information Needed" not in card, name
        if name not in ("vqvae",):
            assert "processor_config.json" in files, name
        if name != "adapter":
            assert {"config.json", "model.safetensors"} <= set(files), name
            assert b"_name_or_path" not in files["config.json"], name
    assert {"model_index.json", "scheduler_config.json"} <= set(repositories["vpdd-policy-pipe"])
    assert not {"model_index.json", "scheduler_config.json"} & set(repositories["gr1-policy-pipe"])
    assert b"me/vpdd-policy-pipe" in repositories["adapter"]["adapter_config.json"]


WITHOUT_PACKAGE = """
import sys
sys.modules["hf_vpdd"] = None  # as if it were not installed
from transformers import AutoModel
AutoModel.from_pretrained("me/gr1-policy", trust_remote_code=True)
"""


def test_without_the_package_the_shim_says_what_to_install(hub, tmp_path):
    done = python(WITHOUT_PACKAGE, env=environment(hub[0].url, tmp_path))
    assert done.returncode != 0 and "This model needs the package hf-vpdd: pip install hf-vpdd" in done.stderr


def test_without_trust_nothing_is_run(hub, tmp_path):
    code = "from transformers import AutoModel\nAutoModel.from_pretrained('me/gr1-policy', trust_remote_code=False)"
    done = python(code, env=environment(hub[0].url, tmp_path))
    assert done.returncode != 0 and "trust_remote_code=True" in done.stderr
