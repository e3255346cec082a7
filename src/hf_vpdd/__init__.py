"""Robot policies from video pre-training with discrete diffusion, for transformers and diffusers.

    import hf_vpdd                       # registers the Auto classes and the "robot-policy" task
    from transformers import pipeline

    policy = pipeline("robot-policy")    # the checkpoint that ships with the package

Names below are imported when first used, so that a process that only wants the simulator never loads the rest.
"""

import importlib
from typing import TYPE_CHECKING

from .registration import inside_the_command, register
from .version import __version__


# public name -> the module that holds it. These paths stand in users' saved pipelines: they never change.
_HOME = {
    "ConfidenceScheduler": "schedulers.scheduling_confidence",
    "EntropyBoundScheduler": "schedulers.scheduling_entropy_bound",
    "GR1Config": "modeling.gr1.configuration_gr1",
    "GR1ForRobotPolicy": "modeling.gr1.modeling_gr1",
    "GR1ForVideoPrediction": "modeling.gr1.modeling_gr1",
    "GR1Model": "modeling.gr1.modeling_gr1",
    "GR1Processor": "modeling.gr1.processing_gr1",
    "HaltonScheduler": "schedulers.scheduling_halton",
    "InputError": "errors",
    "MaskAndReplaceScheduler": "schedulers.scheduling_mask_and_replace",
    "PolicyOutput": "policy",
    "RobotPolicy": "policy",
    "RobotPolicyPipeline": "pipelines.robot_policy",
    "VPDDConfig": "modeling.vpdd.configuration_vpdd",
    "VPDDForRobotPolicy": "modeling.vpdd.modeling_vpdd",
    "VPDDForVideoPrediction": "modeling.vpdd.modeling_vpdd",
    "VPDDModel": "modeling.vpdd.modeling_vpdd",
    "VPDDPipeline": "pipelines.pipeline_vpdd",
    "VPDDProcessor": "modeling.vpdd.processing_vpdd",
    "VPDDVQVAE": "modeling.vqvae.modeling_vqvae",
    "VPDDVQVAEConfig": "modeling.vqvae.configuration_vqvae",
    "VPTRConfig": "modeling.vptr.configuration_vptr",
    "VPTRForRobotPolicy": "modeling.vptr.modeling_vptr",
    "VPTRForValuePrediction": "modeling.vptr.modeling_vptr",
    "VPTRModel": "modeling.vptr.modeling_vptr",
    "VPTRProcessor": "modeling.vptr.processing_vptr",
    "ValueRanker": "value_planning",
    "metrics_path": "metrics",
    "push_to_hub": "hub.push",
    "save_policy": "saving",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:  # for editors and type checkers, which cannot follow the table
    from .errors import InputError
    from .hub.push import push_to_hub
    from .metrics import metrics_path
    from .modeling.gr1.configuration_gr1 import GR1Config
    from .modeling.gr1.modeling_gr1 import GR1ForRobotPolicy, GR1ForVideoPrediction, GR1Model
    from .modeling.gr1.processing_gr1 import GR1Processor
    from .modeling.vpdd.configuration_vpdd import VPDDConfig
    from .modeling.vpdd.modeling_vpdd import VPDDForRobotPolicy, VPDDForVideoPrediction, VPDDModel
    from .modeling.vpdd.processing_vpdd import VPDDProcessor
    from .modeling.vptr.configuration_vptr import VPTRConfig
    from .modeling.vptr.modeling_vptr import VPTRForRobotPolicy, VPTRForValuePrediction, VPTRModel
    from .modeling.vptr.processing_vptr import VPTRProcessor
    from .modeling.vqvae.configuration_vqvae import VPDDVQVAEConfig
    from .modeling.vqvae.modeling_vqvae import VPDDVQVAE
    from .pipelines.pipeline_vpdd import VPDDPipeline
    from .pipelines.robot_policy import RobotPolicyPipeline
    from .policy import PolicyOutput, RobotPolicy
    from .saving import save_policy
    from .schedulers.scheduling_confidence import ConfidenceScheduler
    from .schedulers.scheduling_entropy_bound import EntropyBoundScheduler
    from .schedulers.scheduling_halton import HaltonScheduler
    from .schedulers.scheduling_mask_and_replace import MaskAndReplaceScheduler
    from .value_planning import ValueRanker


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'hf_vpdd' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not inside_the_command():
    register()
