"""The launch configurations, and what the models declare for them."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from hf_vpdd import VPDDVQVAE, GR1ForRobotPolicy, InputError, VPDDForRobotPolicy, VPDDVQVAEConfig
from hf_vpdd.modeling.vptr import VPTRConfig, VPTRForValuePrediction
from hf_vpdd.training.checkpoints import save_checkpoint
from hf_vpdd.training.distributed import wrap_classes
from hf_vpdd.training.processes import load_checkpoint_everywhere
from tests.modeling.small import small_config
from tests.modeling.small_gr1 import small_gr1


ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_configuration(path):
    """accelerate refuses keys that it does not know."""
    config = load_config_from_file(str(path))
    kinds = {"multi": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed": "DEEPSPEED"}
    assert config.distributed_type == kinds[path.stem.split("_")[0]]
    assert f"recipes/accelerate/{path.name}" in path.read_text(encoding="utf-8"), (
        "its first lines say how to launch it"
    )
    if config.distributed_type == "FSDP":
        fsdp = config.fsdp_config
        assert fsdp["fsdp_version"] == 2 and "fsdp_transformer_layer_cls_to_wrap" not in fsdp
        assert fsdp["fsdp_reshard_after_forward"] is ("zero2" not in path.stem)
    if config.distributed_type == "DEEPSPEED":
        assert str(config.deepspeed_config["zero_stage"]) == path.stem[-1]


def test_the_fsdp_configurations_differ_only_where_they_say():
    base, kept, cpu = (
        yaml.safe_load((ROOT / f"recipes/accelerate/{name}.yaml").read_text(encoding="utf-8"))
        for name in ("fsdp2", "fsdp2_zero2", "fsdp2_cpu_test")
    )
    assert kept == {**base, "fsdp_config": {**base["fsdp_config"], "fsdp_reshard_after_forward": False}}
    assert cpu == {**base, "use_cpu": True, "num_processes": 2, "mixed_precision": "no"}


def models() -> dict:
    vptr = {"image_size": 16, "impala_widths": [4, 8], "impala_blocks": 1, "value_hidden_sizes": [8, 8]}
    tokenizer = {"image_size": 16, "codebook_size": 12, "codebook_dim": 8, "hidden_size": 16, "num_res_layers": 1}
    return {
        "conv_2d": (
            VPDDVQVAE(VPDDVQVAEConfig(variant="conv_2d", clip_frames=1, downsample=[1, 4, 4], **tokenizer)),
            {"ResidualBlock2d"},
        ),
        "axial_3d": (
            VPDDVQVAE(VPDDVQVAEConfig(variant="axial_3d", clip_frames=4, downsample=[4, 4, 4], **tokenizer)),
            {"AttentionResidualBlock"},
        ),
        "vpdd": (VPDDForRobotPolicy(small_config()), {"TransformerBlock", "CLIPEncoderLayer"}),
        "gr1": (
            GR1ForRobotPolicy(small_gr1()),
            {"ViTLayer", "CLIPEncoderLayer", "GPT2Block", "ResamplerLayer", "TransformerBlock"},
        ),
        "vptr": (VPTRForValuePrediction(VPTRConfig(encoder="impala", **vptr)), {"ImpalaStack"}),
    }


@pytest.mark.parametrize("name", ["conv_2d", "axial_3d", "vpdd", "gr1", "vptr"])
def test_models_declare_their_blocks(name):
    model, expected = models()[name]
    found = set(wrap_classes(model))
    assert found >= expected  # transformers adds those of the towers inside
    in_a_module = torch.nn.ModuleDict({"network": model})  # as some tasks wrap theirs
    assert set(wrap_classes(in_a_module)) == found


def test_every_process_has_to_see_the_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 4, {"x": torch.ones(2)}, {"seed": 0})
    alone = Namespace(is_main_process=True, num_processes=1, process_index=0)
    for mmap in (False, True):
        step, state = load_checkpoint_everywhere(alone, tmp_path, "auto", {"seed": 0}, print, mmap)
        assert step == 4 and torch.equal(state["x"], torch.ones(2))
    with pytest.raises(InputError, match="different run"):
        load_checkpoint_everywhere(alone, tmp_path, "auto", {"seed": 1}, print, False)
    assert load_checkpoint_everywhere(alone, tmp_path / "new", "auto", {}, print, False) is None
