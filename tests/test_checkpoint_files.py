"""What is said of folders and repositories that cannot be loaded, before weights are read."""

import json

import pytest
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

from hf_vpdd import GR1ForVideoPrediction, RobotPolicy, VPDDForVideoPrediction, VPDDPipeline
from hf_vpdd.checkpoint_files import require_checkpoint
from hf_vpdd.errors import InputError
from hf_vpdd.saving import save_policy
from hf_vpdd.schedulers import HaltonScheduler, MaskAndReplaceScheduler
from tests.fakehub import FakeHub
from tests.hub.processes import environment, python
from tests.pipelines.tiny_gr1 import tiny_gr1_policy
from tests.pipelines.tiny_policy import observation, tiny_policy
from tests.pipelines.tiny_vptr import tiny_value_model


GREEDY = {"temperature": 0.0, "video_temperature": 0.0}


def change(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_newer_format_is_refused_by_everything_that_loads(tmp_path):
    save_policy(tmp_path, *tiny_policy())
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["hf_vpdd_format"] == 1 and saved["hf_vpdd_version"]
    change(tmp_path / "config.json", hf_vpdd_format=2, hf_vpdd_version="9.1")
    for load in (
        AutoConfig.from_pretrained,
        AutoModel.from_pretrained,
        RobotPolicy.from_pretrained,
        VPDDPipeline.from_pretrained,
        lambda path: pipeline("robot-policy", path),
    ):
        with pytest.raises(InputError, match=r"saved by hf_vpdd 9\.1 in format 2; .*pip install -U hf-vpdd"):
            load(str(tmp_path))
    change(tmp_path / "config.json", hf_vpdd_format="new")
    with pytest.raises(InputError, match="in format new"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_folder_of_before_versions_were_written_loads(tmp_path):
    save_policy(tmp_path, *tiny_policy())
    saved = json.loads((tmp_path / "config.json").read_text())
    old = {key: value for key, value in saved.items() if not key.startswith("hf_vpdd") and key != "auto_map"}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert RobotPolicy.from_pretrained(tmp_path, device="cpu").execute == 3
    config = AutoConfig.from_pretrained(tmp_path)
    assert not hasattr(config, "auto_map") and not hasattr(config, "hf_vpdd_format")


def test_the_class_that_was_saved_is_what_loads(tmp_path):
    policy, processor = tiny_policy()
    save_policy(tmp_path / "vpdd", VPDDForVideoPrediction(policy.config), processor)
    gr1, gr1_processor = tiny_gr1_policy()
    save_policy(tmp_path / "gr1", GR1ForVideoPrediction(gr1.config), gr1_processor)
    assert type(AutoModel.from_pretrained(tmp_path / "vpdd")) is VPDDForVideoPrediction
    assert type(AutoModel.from_pretrained(tmp_path / "gr1")) is GR1ForVideoPrediction


def test_a_model_without_actions_is_refused_before_its_weights_are_read(tmp_path, capfd):
    policy, processor = tiny_policy()
    save_policy(tmp_path / "video", VPDDForVideoPrediction(policy.config), processor)
    save_policy(tmp_path / "value", *tiny_value_model())
    (tmp_path / "video" / "model.safetensors").write_bytes(b"")  # nobody looks at it
    capfd.readouterr()
    with pytest.raises(InputError, match="video: holds a VPDDForVideoPrediction, not a policy"):
        RobotPolicy.from_pretrained(tmp_path / "video")
    with pytest.raises(InputError, match="value: holds a VPTRForValuePrediction, which neither acts"):
        RobotPolicy.from_pretrained(tmp_path / "value")
    printed = "".join(capfd.readouterr())
    assert "MISSING" not in printed and "LOAD REPORT" not in printed
    with pytest.raises(InputError, match="VPDDForVideoPrediction predicts no actions"):
        save_policy(tmp_path / "video", VPDDForVideoPrediction(policy.config), processor)
        pipeline("robot-policy", str(tmp_path / "video"))


def test_what_is_no_diffusion_pipeline_is_named(tmp_path):
    save_policy(tmp_path / "gr1", *tiny_gr1_policy())
    with pytest.raises(
        InputError, match="holds a GR1ForRobotPolicy without model_index.json.*Load it with RobotPolicy"
    ):
        VPDDPipeline.from_pretrained(tmp_path / "gr1")
    with pytest.raises(InputError, match="the folder /no/where does not exist"):
        VPDDPipeline.from_pretrained("/no/where")
    with pytest.raises(InputError, match="has no model_index.json"):
        VPDDPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("maker", [tiny_policy, tiny_gr1_policy, tiny_value_model])
def test_weights_without_a_processor_say_so(tmp_path, maker):
    model, _ = maker()
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no processor_config.json"):
        AutoProcessor.from_pretrained(tmp_path)
    if maker is not tiny_value_model:
        with pytest.raises(InputError, match="has no processor_config.json"):
            pipeline("robot-policy", str(tmp_path))
        with pytest.raises(InputError, match="has no processor_config.json.*statistics"):
            require_checkpoint(tmp_path)


def test_a_damaged_config_is_named(tmp_path):
    save_policy(tmp_path, *tiny_policy())
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(InputError, match="config.json is damaged"):
        RobotPolicy.from_pretrained(tmp_path)


def test_no_observations_give_no_actions(tmp_path):
    save_policy(tmp_path, *tiny_policy())
    policy = pipeline("robot-policy", str(tmp_path), device="cpu")
    assert policy([]) == [] and policy([], batch_size=2, **GREEDY) == []
    with pytest.raises(InputError, match="unknown option 'temprature'"):
        policy([], temprature=1)


# ---- the sampler that was saved -----------------------------------------------------------------------------------


def test_an_exchanged_sampler_travels_into_every_way_of_loading(tmp_path):
    model, processor = tiny_policy()
    save_policy(tmp_path, model, processor, scheduler=HaltonScheduler.from_config(model.scheduler.config))
    policy = RobotPolicy.from_pretrained(tmp_path, device="cpu", num_inference_steps=4, **GREEDY)
    assert type(policy.model.scheduler) is HaltonScheduler
    obs = observation()
    plan = policy.predict(obs).actions[0]
    named = RobotPolicy(model, processor, num_inference_steps=4, sampler="halton", **GREEDY).predict(obs)
    assert (plan == named.actions[0]).all()
    task = pipeline("robot-policy", str(tmp_path), device="cpu")
    assert (task(obs, num_inference_steps=4, **GREEDY)["actions"] == plan).all()
    pipe = VPDDPipeline.from_pretrained(tmp_path)
    assert type(pipe.scheduler) is HaltonScheduler
    save_policy(tmp_path / "again", policy.model, processor)  # and out again
    assert type(RobotPolicy.from_pretrained(tmp_path / "again", device="cpu").model.scheduler) is HaltonScheduler


def test_the_models_own_sampler_stays_where_nothing_else_was_saved(tmp_path):
    save_policy(tmp_path, *tiny_policy())
    assert type(AutoModel.from_pretrained(tmp_path).scheduler) is MaskAndReplaceScheduler
    (tmp_path / "scheduler_config.json").unlink()
    assert type(AutoModel.from_pretrained(tmp_path).scheduler) is MaskAndReplaceScheduler


def test_a_changed_config_says_more_than_the_saved_sampler(tmp_path):
    model, processor = tiny_policy()
    save_policy(tmp_path, model, processor, scheduler=HaltonScheduler.from_config(model.scheduler.config))
    config = AutoConfig.from_pretrained(tmp_path)
    config.replace_mass = 0.3
    loaded = type(model).from_pretrained(tmp_path, config=config)
    assert type(loaded.scheduler) is MaskAndReplaceScheduler and loaded.scheduler.config.replace_mass == 0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "scheduler_config.json is damaged"),
        ('{"_class_name": "DDIMScheduler"}', "'DDIMScheduler' does not denoise"),
    ],
)
def test_a_sampler_that_is_none_is_named(tmp_path, text, message):
    save_policy(tmp_path, *tiny_policy())
    (tmp_path / "scheduler_config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        RobotPolicy.from_pretrained(tmp_path)


# ---- repositories -------------------------------------------------------------------------------------------------

ASK = """
import sys
import hf_vpdd
from tests.pipelines.tiny_policy import tiny_policy
tiny_policy()[0].push_to_hub("me/weights-alone")
for load in (hf_vpdd.RobotPolicy.from_pretrained, hf_vpdd.VPDDPipeline.from_pretrained):
    for name in ("me/nothing", "me/weights-alone"):
        try:
            load(name)
        except hf_vpdd.InputError as error:
            print("SAID", error)
try:
    hf_vpdd.RobotPolicy.from_pretrained("me/weights-alone", hub_options={"revision": "v7"})
except hf_vpdd.InputError as error:
    print("SAID", error)
"""


def test_repositories_that_are_not_there_or_not_whole(tmp_path):
    with FakeHub() as hub:
        done = python(ASK, env=environment(hub.url, tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stdout.splitlines() if line.startswith("SAID")]
    assert len(said) >= 4, done.stdout
    assert "me/nothing is neither a folder nor a repository on the Hub" in said[0]
    assert "the repository me/weights-alone has no processor_config.json" in said[1]
    assert "me/nothing is neither a folder nor a repository on the Hub" in said[2]
    assert "without model_index.json" in said[3]


def test_without_a_network_the_hub_is_not_asked():
    with pytest.raises(InputError, match="me/nothing is no folder, and its config.json was not downloaded"):
        RobotPolicy.from_pretrained("me/nothing")
