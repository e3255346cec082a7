"""One small model of every kind, with its processor, and how to ask it. Run in the process that pushes and, for the
answers alone (no hf_vpdd is imported), in the one that pulls."""

import numpy as np
import torch


FRAME = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
SAID = "press the button from above"
OPTIONS = {"vpdd": {"temperature": 0.0, "video_temperature": 0.0, "num_inference_steps": 1}}


def observation(processor) -> dict:
    state = np.linspace(-1, 1, processor.state_dim or 0).astype(np.float32)
    return {"images": dict.fromkeys(processor.cameras, FRAME), "state": state, "instruction": SAID}


def checksum(model) -> float:
    return float(sum(tensor.double().abs().sum() for tensor in model.state_dict().values()))


def acts(pipe) -> list:
    """A plan with nothing left to chance."""
    kind = pipe.model.config.model_type
    return pipe(observation(pipe.processor), **OPTIONS.get(kind, {}))["actions"].tolist()


def statistics(processor) -> dict:
    names = ("state_stats", "action_stats", "action_low", "cameras", "tasks", "chunk_size")
    return {name: getattr(processor, name) for name in names if getattr(processor, name, None) is not None}


def build() -> dict:
    """name -> (model, processor)."""
    from hf_vpdd import GR1ForVideoPrediction, VPDDForVideoPrediction
    from tests.pipelines.tiny_gr1 import tiny_gr1_policy
    from tests.pipelines.tiny_policy import tiny_policy
    from tests.pipelines.tiny_vptr import tiny_value_model, tiny_vptr_policy

    policy, processor = tiny_policy()
    gr1, gr1_processor = tiny_gr1_policy()
    torch.manual_seed(1)
    return {
        "vqvae": (policy.model.vqvae, None),
        "vpdd-video": (VPDDForVideoPrediction(policy.config).eval(), processor),
        "vpdd-policy": (policy, processor),
        "gr1-video": (GR1ForVideoPrediction(gr1.config).eval(), gr1_processor),
        "gr1-policy": (gr1, gr1_processor),
        "vptr-value": tiny_value_model(),
        "vptr-policy": tiny_vptr_policy(),
    }
