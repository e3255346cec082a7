from .configuration_vptr import VPTRConfig
from .modeling_vptr import (
    VPTRForRobotPolicy,
    VPTRForValuePrediction,
    VPTRModel,
    VPTRModelOutput,
    VPTRPolicyOutput,
    VPTRPreTrainedModel,
    VPTRSampleOutput,
    VPTRValueOutput,
)


__all__ = [
    "VPTRConfig",
    "VPTRForRobotPolicy",
    "VPTRForValuePrediction",
    "VPTRModel",
    "VPTRModelOutput",
    "VPTRPolicyOutput",
    "VPTRPreTrainedModel",
    "VPTRSampleOutput",
    "VPTRValueOutput",
]
