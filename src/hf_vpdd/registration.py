"""Makes transformers know this package: its Auto classes and its pipeline task.

transformers reads no entry points, so a package has to be imported before `AutoModel` can load its checkpoints: that
is what `import hf_vpdd` is for; it calls `register()`.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path


TASK = "robot-policy"
COMMAND = "hf-vpdd"
# The checkpoint that ships inside the package: what `pipeline("robot-policy")` loads when no model is named.
DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "vpdd-metaworld-mt10"


def register() -> None:
    """Registers the Auto classes and the task. Harmless when called twice."""
    from transformers import AutoConfig, AutoModel, AutoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from .modeling.gr1.configuration_gr1 import GR1Config
    from .modeling.gr1.modeling_gr1 import GR1ForRobotPolicy, GR1ForVideoPrediction
    from .modeling.gr1.processing_gr1 import GR1Processor
    from .modeling.vpdd.configuration_vpdd import VPDDConfig
    from .modeling.vpdd.modeling_vpdd import VPDDForRobotPolicy, VPDDForVideoPrediction
    from .modeling.vpdd.processing_vpdd import VPDDProcessor
    from .modeling.vptr.configuration_vptr import VPTRConfig
    from .modeling.vptr.modeling_vptr import VPTRForRobotPolicy, VPTRForValuePrediction, VPTRModel
    from .modeling.vptr.processing_vptr import VPTRProcessor
    from .modeling.vqvae.configuration_vqvae import VPDDVQVAEConfig
    from .modeling.vqvae.modeling_vqvae import VPDDVQVAE
    from .pipelines.robot_policy import RobotPolicyPipeline, ShippedModel

    for config, model in (
        (VPDDVQVAEConfig, VPDDVQVAE),
        # what a folder holds decides (config.architectures), the first where nothing is recorded: a policy's head
        # that starts at random is right for fine-tuning (name the class then) and dangerous for control
        (VPDDConfig, (VPDDForRobotPolicy, VPDDForVideoPrediction)),
        (GR1Config, (GR1ForRobotPolicy, GR1ForVideoPrediction)),
        (VPTRConfig, (VPTRForRobotPolicy, VPTRForValuePrediction, VPTRModel)),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
    AutoProcessor.register(VPDDConfig, VPDDProcessor, exist_ok=True)
    AutoProcessor.register(GR1Config, GR1Processor, exist_ok=True)
    AutoProcessor.register(VPTRConfig, VPTRProcessor, exist_ok=True)
    _tell_peft()
    if TASK not in PIPELINE_REGISTRY.supported_tasks:  # a second registration would warn
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=RobotPolicyPipeline,
            pt_model=AutoModel,
            default=ShippedModel(model=(str(DEFAULT_CHECKPOINT), "main")),
            type="multimodal",
        )


class _WhenPeftIsImported(MetaPathFinder):
    """Waits for peft's table of default target modules. Importing peft for its sake would cost everybody a tenth of a
    second, and `import hf_vpdd` would fail wherever peft's own imports do."""

    table = "peft.utils.constants"

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.table:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_fill(module):
                load(module)
                _fill(module)

            spec.loader.exec_module = load_and_fill
        return spec


def _tell_peft() -> None:
    """So that `get_peft_model(model, LoraConfig())` knows which layers of our models to adapt."""
    if (table := sys.modules.get(_WhenPeftIsImported.table)) is not None:
        _fill(table)
    elif not any(isinstance(finder, _WhenPeftIsImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenPeftIsImported())


def _fill(table) -> None:
    from .modeling.lora_targets import LORA_TARGETS

    table.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.update(LORA_TARGETS)


def inside_the_command() -> bool:
    """Whether this process was started as `hf-vpdd ...`, or is a worker that such a process spawned.

    There `import hf_vpdd` registers nothing by itself. Importing torch and transformers takes seconds and hundreds of
    megabytes, which `hf-vpdd --help` and every simulator worker would pay for nothing; and `hf-vpdd doctor` must run
    where they cannot be imported at all. `hf_vpdd.cli.main` calls `register()` before a verb that needs models.
    """
    return bool(sys.argv) and Path(sys.argv[0]).stem == COMMAND
