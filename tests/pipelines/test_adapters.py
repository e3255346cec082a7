"""Adapters of policies: every way of loading one gives what was trained, and a base that does not fit is named."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from hf_vpdd import (
    VPDDVQVAE,
    GR1ForRobotPolicy,
    InputError,
    RobotPolicy,
    VPDDForRobotPolicy,
    VPDDForVideoPrediction,
    VPTRForRobotPolicy,
    save_policy,
)
from hf_vpdd.modeling.adapters import adapters_of, merge_adapters
from hf_vpdd.pipelines import VPDDPipeline
from hf_vpdd.training.lora import add_lora, starting_point
from hf_vpdd.training.lora_arguments import LoraArguments
from tests.modeling.small import small_config
from tests.modeling.test_modeling_vptr import SMALL_BIT
from tests.pipelines.tiny_gr1 import gr1_episode, plain_actions, tiny_gr1_policy
from tests.pipelines.tiny_policy import observation, tiny_policy, tiny_processor
from tests.pipelines.tiny_vptr import tiny_value_model, tiny_vptr_config, tiny_vptr_policy


VARIANTS = ("lora", "rslora", "dora")
OBSERVATION = {**observation(1), "instruction": "press the button"}
GREEDY = {"temperature": 0.0, "video_temperature": 0.0, "num_inference_steps": 1}
FILES = {
    "README.md", "adapter_base.json", "adapter_config.json", "adapter_model.safetensors", "config.json",
    "hf_vpdd_auto.py", "model_index.json", "processor_config.json", "scheduler_config.json", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip


def shaken(policy, seed=0):
    """As if trained: whatever is trainable has moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy.eval()


def adapted(base, folder, cls=VPDDForRobotPolicy, processor=None, config=None, seed=0, **options):
    """An adapter on the model in `base`, saved in `folder`; the policy that it makes."""
    start = starting_point(base, "test")
    kwargs = {} if config is None else {"config": config}
    policy, info = cls.from_pretrained(start.weights, output_loading_info=True, **kwargs)
    add_lora(policy, LoraArguments(lora=True, **options), start, sorted(info["missing_keys"]))
    save_policy(folder, shaken(policy, seed), processor or AutoProcessor.from_pretrained(base))
    return policy


def logits(model, processor=None):
    """Action logits of one observation: any change of trunk or head shows."""
    processor = processor or tiny_policy()[1]
    inputs = processor.process_observations([OBSERVATION])
    codes = torch.zeros(1, 1, *model.config.latent_shape, dtype=torch.long)
    with torch.no_grad():
        return model(**inputs, video_codes=codes, generator=torch.Generator().manual_seed(0)).action_logits


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base policy, and an adapter of each variant; the trained policies themselves."""
    root = tmp_path_factory.mktemp("adapters")
    save_policy(root / "base", *tiny_policy())
    return root, {variant: adapted(root / "base", root / variant, lora_variant=variant) for variant in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_way_in_gives_what_was_trained(folders, variant):
    root, policies = folders
    trained, folder = logits(policies[variant]), root / variant
    assert (logits(tiny_policy()[0]) - trained).abs().max() > 0.01
    files = {path.name for path in folder.iterdir()}
    assert FILES <= files and "model.safetensors" not in files
    model = AutoModel.from_pretrained(folder)
    assert type(model) is VPDDForRobotPolicy and adapters_of(model) == ["default"] and not model.training
    assert torch.equal(logits(model), trained)
    plan = RobotPolicy(model, AutoProcessor.from_pretrained(folder), **GREEDY).predict(OBSERVATION).actions[0]
    ours = [
        RobotPolicy.from_pretrained(folder, device="cpu", **GREEDY).predict(OBSERVATION).actions[0],
        pipeline("robot-policy", model=str(folder), device="cpu")(OBSERVATION, **GREEDY)["actions"],
        VPDDPipeline.from_pretrained(folder)(
            OBSERVATION["images"], OBSERVATION["instruction"], OBSERVATION["state"], **GREEDY
        ).actions[0],
    ]
    for actions in ours:
        np.testing.assert_array_equal(actions, plan)


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_itself_loads_it_and_merging_agrees(folders, variant):
    from peft import PeftModel

    root, policies = folders
    trained = logits(policies[variant])
    theirs = PeftModel.from_pretrained(VPDDForRobotPolicy.from_pretrained(root / "base"), str(root / variant))
    assert torch.equal(logits(theirs.get_base_model()), trained)
    merged = merge_adapters(AutoModel.from_pretrained(root / variant))
    assert not adapters_of(merged) and merged.state_dict().keys() == tiny_policy()[0].state_dict().keys()
    torch.testing.assert_close(logits(merged), trained, rtol=1e-4, atol=1e-5)


def test_an_adapter_on_a_video_model_brings_the_head_and_the_configuration(tmp_path):
    processor = tiny_processor()
    config = small_config(text_config=tiny_policy()[0].config.text_config.to_dict(), action_dim=4)
    save_policy(
        tmp_path / "video",
        VPDDForVideoPrediction(small_config(text_config=config.text_config, action_dim=3)),
        processor,
    )
    policy = adapted(tmp_path / "video", tmp_path / "lora", config=config, processor=processor, lora_r=2)
    loaded = AutoModel.from_pretrained(tmp_path / "lora")
    assert type(loaded) is VPDDForRobotPolicy and loaded.config.action_dim == 4
    assert torch.equal(logits(loaded, processor), logits(policy, processor))
    with pytest.raises(InputError, match="must name action_head too.*starts random and would be lost"):
        adapted(tmp_path / "video", tmp_path / "no", config=config, processor=processor, lora_modules_to_save=[])
    pipe = VPDDPipeline.from_pretrained(tmp_path / "video")
    with pytest.raises(InputError, match="predicts no actions|does not match"):
        pipe.load_lora_weights(tmp_path / "lora")


def test_a_saved_adapter_is_saved_as_one_again(folders, tmp_path):
    root, policies = folders
    pipe = VPDDPipeline.from_pretrained(root / "lora")
    pipe.save_pretrained(tmp_path / "again")
    files = {path.name for path in (tmp_path / "again").iterdir()}
    assert FILES <= files and "model.safetensors" not in files
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "again")), logits(policies["lora"]))
    pipe.fuse_lora()
    pipe.save_pretrained(tmp_path / "again")  # whole now: nothing of the adapter may stay beside it
    assert not list((tmp_path / "again").glob("adapter*"))
    torch.testing.assert_close(logits(AutoModel.from_pretrained(tmp_path / "again")), logits(policies["lora"]))


def test_pipeline_switches_adapters_with_their_processors(folders, tmp_path):
    root, policies = folders
    other = tiny_processor()
    other.execute = 2
    adapted(root / "base", tmp_path / "other", processor=other, seed=5)
    pipe = VPDDPipeline.from_pretrained(root / "base")
    plain, own = logits(pipe.model), pipe.processor
    pipe.load_lora_weights(root / "lora")
    pipe.load_lora_weights(tmp_path / "other", adapter_name="other")
    assert pipe.get_active_adapters() == ["other"] and pipe.processor.execute == 2
    second = logits(pipe.model)
    pipe.set_adapters("default")
    assert torch.equal(logits(pipe.model), logits(policies["lora"])) and pipe.processor.execute is None
    pipe.set_adapters(["other"])
    assert torch.equal(logits(pipe.model), second) and not torch.equal(second, logits(policies["lora"]))
    with pytest.raises(InputError, match="one adapter at a time"):
        pipe.set_adapters(["default", "other"])
    with pytest.raises(InputError, match=r"no adapter 'third' is loaded; there are \['default', 'other'\]"):
        pipe.set_adapters("third")
    with pytest.raises(InputError, match="'other' already"):
        pipe.load_lora_weights(root / "lora", adapter_name="other")
    pipe.unload_lora_weights()
    assert torch.equal(logits(pipe.model), plain) and pipe.processor is own and pipe.get_active_adapters() == []
    with pytest.raises(InputError, match="holds no adapter"):
        pipe.load_lora_weights(root / "base")
    whole = VPDDPipeline.from_pretrained(root / "lora")  # its own adapter stays
    whole.load_lora_weights(tmp_path / "other")
    whole.unload_lora_weights()
    assert torch.equal(logits(whole.model), logits(policies["lora"]))


def test_base_and_adapter_can_be_moved_together_and_the_base_named(folders, tmp_path):
    root, policies = folders
    for name in ("base", "lora"):
        shutil.copytree(root / name, tmp_path / "elsewhere" / name)
    record = tmp_path / "elsewhere" / "lora" / "adapter_base.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "name": "/nowhere/base"}))  # as on another machine
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "elsewhere" / "lora")), logits(policies["lora"]))
    shutil.move(tmp_path / "elsewhere" / "base", tmp_path / "hidden")
    with pytest.raises(InputError, match="/nowhere/base, is not there.*--base FOLDER"):
        AutoModel.from_pretrained(tmp_path / "elsewhere" / "lora")
    named = str(tmp_path / "hidden")
    model = AutoModel.from_pretrained(tmp_path / "elsewhere" / "lora", base_model=named)
    assert torch.equal(logits(model), logits(policies["lora"])) and model.adapter_base.name == named
    policy = RobotPolicy.from_pretrained(tmp_path / "elsewhere" / "lora", base_model=named, device="cpu")
    assert torch.equal(logits(policy.model), logits(policies["lora"]))


def test_a_base_that_does_not_fit_is_named(folders, tmp_path):
    root, _ = folders
    shutil.copytree(root / "base", tmp_path / "base")
    shutil.copytree(root / "lora", tmp_path / "lora")
    record = tmp_path / "lora" / "adapter_base.json"
    content = {**json.loads(record.read_text()), "name": str(tmp_path / "base"), "relative": None}
    record.write_text(json.dumps(content))
    save_policy(tmp_path / "base", *tiny_policy(seed=7))
    with pytest.raises(InputError, match="not those this adapter was trained on.*trained again"):
        AutoModel.from_pretrained(tmp_path / "lora")
    pipe = VPDDPipeline.from_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match="does not match the adapter"):
        pipe.load_lora_weights(root / "lora")
    AutoModel.from_pretrained(tmp_path / "lora", base_model=str(tmp_path / "base"))  # wanted all the same
    save_policy(tmp_path / "gr1", *tiny_gr1_policy())
    with pytest.raises(InputError, match="for a model of type 'vpdd', .* holds one of type 'gr1'"):
        AutoModel.from_pretrained(tmp_path / "lora", base_model=str(tmp_path / "gr1"))
    wide = VPDDForRobotPolicy(
        small_config(hidden_size=32, trunk_heads=4, text_config=tiny_policy()[0].config.text_config.to_dict())
    )
    save_policy(tmp_path / "wide", wide, tiny_processor())
    with pytest.raises(InputError, match="hidden_size 16 in the adapter, 32 in the base"):
        AutoModel.from_pretrained(tmp_path / "lora", base_model=str(tmp_path / "wide"))
    with pytest.raises(InputError, match="is an adapter itself"):
        AutoModel.from_pretrained(tmp_path / "lora", base_model=str(root / "dora"))
    with pytest.raises(InputError, match="is no adapter"):
        AutoModel.from_pretrained(root / "base", base_model=str(root / "base"))
    with pytest.raises(InputError, match="adapter of a 'vpdd' model"):
        GR1ForRobotPolicy.from_pretrained(root / "lora")
    with pytest.raises(InputError, match="adapter of a VPDDForRobotPolicy, not of a VPDDForVideoPrediction"):
        VPDDForVideoPrediction.from_pretrained(root / "lora")


def test_an_adapter_without_its_processor_is_no_policy(folders, tmp_path):
    root, _ = folders
    shutil.copytree(root / "lora", tmp_path / "lora")
    (tmp_path / "lora" / "processor_config.json").unlink()
    with pytest.raises(InputError, match="has no processor_config.json"):
        RobotPolicy.from_pretrained(tmp_path / "lora")
    pipe = VPDDPipeline.from_pretrained(root / "base")
    with pytest.raises(InputError, match="has no processor"):
        pipe.load_lora_weights(tmp_path / "lora")


def test_gr1(tmp_path):
    model, processor = tiny_gr1_policy()
    save_policy(tmp_path / "base", model, processor)
    trained = adapted(tmp_path / "base", tmp_path / "lora", GR1ForRobotPolicy, lora_r=2)
    episode = gr1_episode(3)
    loaded = AutoModel.from_pretrained(tmp_path / "lora")
    assert type(loaded) is GR1ForRobotPolicy
    ours, theirs = loaded.state_dict(), trained.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    actions = plain_actions(loaded, processor, episode)
    np.testing.assert_allclose(actions, plain_actions(trained, processor, episode), atol=1e-5)
    assert np.abs(actions - plain_actions(model, processor, episode)).max() > 1e-3
    policy = RobotPolicy.from_pretrained(tmp_path / "lora", device="cpu")
    assert policy.select_action(episode[0]).shape == actions.shape[-1:]
    merged = merge_adapters(loaded)
    np.testing.assert_allclose(plain_actions(merged, processor, episode), actions, atol=1e-5)


def test_vptr_on_the_value_model_its_encoders_are_from(tmp_path):
    value, value_processor = tiny_value_model()
    save_policy(tmp_path / "value", value, value_processor)
    policy, processor = tiny_vptr_policy()
    start = starting_point(tmp_path / "value", "test")
    policy = VPTRForRobotPolicy.from_video_pretrained(start.weights, policy.config)
    add_lora(policy, LoraArguments(lora=True), start, policy.own_parameters(), parameters=["log_temperature"])
    save_policy(tmp_path / "lora", shaken(policy), processor)
    loaded = AutoModel.from_pretrained(tmp_path / "lora")
    assert type(loaded) is VPTRForRobotPolicy
    inputs = {"pixel_values": torch.rand(2, 3, 16, 16), "task_ids": torch.tensor([0, 1])}
    if policy.config.state_dim:
        inputs["state"] = torch.randn(2, policy.config.state_dim)
    labels = torch.rand(2, policy.config.action_dim)
    for name in ("actions", "values"):
        ours, theirs = (getattr(m(**inputs, actions=labels), name) for m in (loaded, policy))
        assert torch.equal(ours, theirs)
    merged = merge_adapters(loaded)
    torch.testing.assert_close(merged(**inputs).actions, policy(**inputs).actions, rtol=1e-4, atol=1e-5)
    changed = merged.actor_encoder.state_dict()
    assert any(not torch.equal(tensor, changed[n]) for n, tensor in value.model.encoder.state_dict().items())


def test_encoders_that_normalise_their_weights_are_refused(tmp_path):
    config = tiny_vptr_config(image_size=32, encoder="bit", bit_config=SMALL_BIT)
    policy = VPTRForRobotPolicy(config)
    start = starting_point(_saved(policy, tmp_path / "value"), "test")
    with pytest.raises(InputError, match="matches no layer .*encoder bit, cannot be"):
        add_lora(policy, LoraArguments(lora=True), start, policy.own_parameters())
    named = LoraArguments(lora=True, lora_target_modules=r".*encoder\.bit\..*conv\d")
    with pytest.raises(InputError, match="WeightStandardizedConv2d, which does not use its weights as they are"):
        add_lora(policy, named, start, policy.own_parameters())


def test_a_tokenizer_adapted_with_plain_peft(tmp_path):
    """Its decoder alone: pictures change, codes do not."""
    from peft import LoraConfig, get_peft_model

    config = tiny_policy()[0].config.vqvae_config
    whole = VPDDVQVAE(config).eval()
    whole.save_pretrained(tmp_path / "base")
    model = get_peft_model(VPDDVQVAE.from_pretrained(tmp_path / "base"), LoraConfig(r=2))
    shaken(model)
    model.save_pretrained(tmp_path / "lora")
    loaded = AutoModel.from_pretrained(tmp_path / "lora")
    video = torch.rand(1, 3, config.clip_frames, config.image_size, config.image_size) - 0.5
    codes = whole.encode(video)
    assert torch.equal(loaded.encode(video), codes)
    assert torch.equal(loaded.decode(codes), model.get_base_model().decode(codes))
    assert not torch.equal(loaded.decode(codes), whole.decode(codes))


def _saved(model, folder):
    model.save_pretrained(folder)
    return folder
