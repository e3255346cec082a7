from .configuration_gr1 import GR1Config
from .modeling_gr1 import (
    GR1ForRobotPolicy,
    GR1ForVideoPrediction,
    GR1Model,
    GR1PreTrainedModel,
)
from .outputs import GR1ModelOutput, GR1Output, GR1SampleOutput


__all__ = [
    "GR1Config",
    "GR1ForRobotPolicy",
    "GR1ForVideoPrediction",
    "GR1Model",
    "GR1ModelOutput",
    "GR1Output",
    "GR1PreTrainedModel",
    "GR1SampleOutput",
]
