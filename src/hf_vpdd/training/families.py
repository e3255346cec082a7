"""The families of models, their stages, and what belongs to each: script, options, defaults, config."""

from .gr1_arguments import TRAIN_DEFAULTS as GR1_DEFAULTS
from .gr1_arguments import Gr1FinetuneArguments, Gr1PretrainArguments
from .options import FinetuneArguments, PretrainArguments, VQVAEArguments
from .vptr_arguments import TRAIN_DEFAULTS as VPTR_DEFAULTS
from .vptr_arguments import OfflineRLArguments, ValueArguments


# Stage -> the one it starts from, for every family of models; a recipe is of one family (its key `family`).
FAMILIES = {
    "vpdd": {"vqvae": None, "pretrain": "vqvae", "finetune": "pretrain"},
    "vptr": {"value_pretrain": None, "offline_rl": "value_pretrain"},
    "gr1": {"gr1_pretrain": None, "gr1_finetune": "gr1_pretrain"},
}
PREVIOUS_STAGE = {stage: before for stages in FAMILIES.values() for stage, before in stages.items()}
STAGES = tuple(PREVIOUS_STAGE)
FAMILY_OF = {stage: family for family, stages in FAMILIES.items() for stage in stages}
SCRIPTS = {
    "vqvae": "training/train_vqvae.py",
    "pretrain": "training/pretrain.py",
    "finetune": "training/finetune.py",
    "value_pretrain": "training/pretrain.py --model vptr",
    "offline_rl": "training/offline_rl.py --model vptr",
    "gr1_pretrain": "training/pretrain.py --model gr1",
    "gr1_finetune": "training/finetune.py --model gr1",
}
POLICY_STAGES = ("finetune", "gr1_finetune", "offline_rl")  # train something that can act in a simulator
TRAIN_DEFAULTS = {**VPTR_DEFAULTS, **GR1_DEFAULTS}
STAGE_ARGUMENTS = {
    "vqvae": VQVAEArguments,
    "pretrain": PretrainArguments,
    "finetune": FinetuneArguments,
    "value_pretrain": ValueArguments,
    "offline_rl": OfflineRLArguments,
    "gr1_pretrain": Gr1PretrainArguments,
    "gr1_finetune": Gr1FinetuneArguments,
}


def config_class(stage: str) -> type:
    """The config whose fields the `model` section of `stage` may set."""
    if stage == "vqvae":
        from ..modeling.vqvae.configuration_vqvae import VPDDVQVAEConfig

        return VPDDVQVAEConfig
    if FAMILY_OF[stage] == "vptr":
        from ..modeling.vptr.configuration_vptr import VPTRConfig

        return VPTRConfig
    if FAMILY_OF[stage] == "gr1":
        from ..modeling.gr1.configuration_gr1 import GR1Config

        return GR1Config
    from ..modeling.vpdd.configuration_vpdd import VPDDConfig

    return VPDDConfig


def set_elsewhere(stage: str) -> dict[str, str]:
    """Fields of the config that a stage fills in by itself, and from what."""
    if FAMILY_OF[stage] == "gr1":
        return {"predict_ahead": f"use the option predict_ahead of {stage}"}
    return {
        "tasks": "it comes from the instructions of the data",
        "value_objective": "use the option objective of value_pretrain",
        "vqvae_config": "it comes from the trained VQ-VAE (init_from), whose section is vqvae.model",
        "video_loss_weight": "use the option video_loss_weight of finetune",
    }
