from .configuration_vpdd import VPDDConfig
from .modeling_vpdd import (
    VPDDForRobotPolicy,
    VPDDForVideoPrediction,
    VPDDModel,
    VPDDModelOutput,
    VPDDOutput,
    VPDDPreTrainedModel,
    VPDDSampleOutput,
)


__all__ = [
    "VPDDConfig",
    "VPDDForRobotPolicy",
    "VPDDForVideoPrediction",
    "VPDDModel",
    "VPDDModelOutput",
    "VPDDOutput",
    "VPDDPreTrainedModel",
    "VPDDSampleOutput",
]
