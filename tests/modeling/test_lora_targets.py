"""The layers that LoRA adapts by default: those of the trunk and its kind, none of the frozen towers."""

import json
import re
import subprocess
import sys

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_vpdd import (
    VPDDVQVAE,
    GR1ForRobotPolicy,
    VPDDForRobotPolicy,
    VPDDForVideoPrediction,
    VPDDVQVAEConfig,
    VPTRForRobotPolicy,
    VPTRForValuePrediction,
)
from hf_vpdd.modeling.lora_targets import LORA_TARGETS
from tests.modeling.small import small_config
from tests.modeling.small_gr1 import small_gr1
from tests.pipelines.tiny_vptr import tiny_vptr_config


ADAPTABLE = (nn.Linear, nn.Conv2d, nn.Conv3d, Conv1D)
AXIAL = {"variant": "axial_3d", "clip_frames": 4, "downsample": [4, 8, 8], "codebook_size": 16, "codebook_dim": 8}


def vpdd(trunk, head, cls=VPDDForRobotPolicy):
    return cls(small_config(trunk=trunk, action_head=head, **({"state_dim": 0} if head == "causal" else {})))


MODELS = {
    **{
        f"{trunk} {head}": lambda trunk=trunk, head=head: vpdd(trunk, head)
        for trunk in ("fused", "perceiver")
        for head in ("cross_attention", "causal", "causal_multiview")
    },
    "video": lambda: vpdd("fused", "cross_attention", VPDDForVideoPrediction),
    "gr1": lambda: GR1ForRobotPolicy(small_gr1()),
    "vptr": lambda: VPTRForRobotPolicy(tiny_vptr_config(tasks=["a", "b"])),
    "value": lambda: VPTRForValuePrediction(tiny_vptr_config()),
    "vqvae": lambda: VPDDVQVAE(VPDDVQVAEConfig(hidden_size=16, num_res_layers=1, **AXIAL)),
}
# the parts in which every linear layer (or convolution) is adapted, and how many parts there are to spare
WHOLE = {
    "vpdd": "model.trunk.",
    "gr1": "model.trunk.",
    "vptr": ("actor_encoder.", "critic_encoder.", "model.encoder."),
}
SPARED = ("vqvae.", "text_model.", "image_model.", "frame_decoder.", "resampler.", "critics.", "value_heads.")


@pytest.mark.parametrize("name", MODELS)
def test_defaults_name_layers_of_the_trunk_and_nothing_frozen(name):
    model = MODELS[name]()
    hit = {n for n, _ in model.named_modules() if re.fullmatch(LORA_TARGETS[model.config.model_type], n)}
    assert hit and all(isinstance(model.get_submodule(n), ADAPTABLE) for n in hit)
    assert not [n for n in hit if n.removeprefix("model.").startswith(SPARED)]
    if whole := WHOLE.get(model.config.model_type):
        layers = {n for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D, nn.Conv2d))}
        expected = {n for n in layers if n.startswith(whole)}
        if "fused" in name or name == "video":  # the little encoder of raw pixels
            expected = {n for n in expected if "image_encoder" not in n}
        expected -= {"model.trunk.code_embed"}  # a table, of which the Perceiver also reads the bias alone
        assert {n for n in hit if n.startswith(whole)} == expected
    if "action_head" in dict(model.named_children()):
        assert any(n.startswith("action_head.") for n in hit)
    if name == "vqvae":
        assert all(n.startswith("decoder.") for n in hit)


@pytest.mark.parametrize("name", ["perceiver causal_multiview", "video", "gr1", "vptr", "vqvae"])
def test_plain_peft_knows_what_to_adapt(name):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(MODELS[name](), LoraConfig(r=2))
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trainable and all(".lora_" in n for n in trainable)


@pytest.mark.parametrize("order", ["hf_vpdd, peft", "peft, hf_vpdd"])
def test_whichever_is_imported_first(order):
    code = f"""
import {order.split(", ")[0]}, sys, json
early = "peft" in sys.modules
import {order.split(", ")[1]}
import peft.utils.constants
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as table
print(json.dumps([early, {{name: table.get(name) for name in ("vpdd", "gr1", "vptr", "vpdd_vqvae", "gpt2")}}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    early, table = json.loads(done.stdout.splitlines()[-1])
    assert early == order.startswith("peft")
    assert table == {**LORA_TARGETS, "gpt2": ["c_attn"]}
