"""Random V-PTR networks with matching processors."""

import torch

from hf_vpdd.modeling.vpdd.instruction_tokenizer import train_tokenizer
from hf_vpdd.modeling.vptr import VPTRConfig, VPTRForRobotPolicy, VPTRForValuePrediction
from hf_vpdd.modeling.vptr.processing_vptr import VPTRProcessor
from tests.pipelines.tiny_policy import SENTENCES, TEXT, demonstrations


def tiny_vptr_config(**options) -> VPTRConfig:
    sizes = {"impala_widths": [4, 4], "impala_blocks": 1, "latent_size": 8, "policy_hidden_sizes": [16]}
    return VPTRConfig.tiny(**{"image_size": 16, **sizes, "value_hidden_sizes": [12, 8], "tasks": SENTENCES, **options})


def tiny_vptr_policy(seed: int = 0, condition: str = "task") -> tuple[VPTRForRobotPolicy, VPTRProcessor]:
    """(model, processor), random weights that depend on the seed alone."""
    torch.manual_seed(seed)
    text = {"text_config": TEXT} if condition == "text" else {}
    model = VPTRForRobotPolicy(tiny_vptr_config(condition=condition, **text)).eval()
    actions, state = demonstrations()
    tokenizer = train_tokenizer(SENTENCES, 300) if condition == "text" else None
    processor = VPTRProcessor.from_dataset_stats(
        actions, state, -1.0, 1.0, image_size=16, condition=condition, tasks=SENTENCES, tokenizer=tokenizer,
    )  # fmt: skip
    return model, processor


def tiny_value_model(seed: int = 0, **options) -> tuple[VPTRForValuePrediction, VPTRProcessor]:
    """(model, processor) of phase 1."""
    torch.manual_seed(seed)
    text = options.get("intent") == "text"
    model = VPTRForValuePrediction(tiny_vptr_config(**options, **({"text_config": TEXT} if text else {}))).eval()
    tokenizer = train_tokenizer(SENTENCES, 300) if text else None
    return model, VPTRProcessor(
        image_size=16, condition="none", intent=options.get("intent", "image"), tokenizer=tokenizer
    )
