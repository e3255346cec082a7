"""Training: recipes, the loop, the three stages of VPDD and the two each of V-PTR and GR-1.

from hf_vpdd.training import load_recipe, run_vqvae, run_pretrain, run_finetune
run_vqvae(load_recipe("vqvae", "recipes/metaworld_tiny.yaml", {"steps": 200}))
"""

from importlib import import_module


_HOME = {
    "Recipe": "arguments",
    "load_nonfinite_batch": "nonfinite",
    "load_recipe": "arguments",
    "parse_command_line": "arguments",
    "read_best": "best",
    "run_finetune": "stages.finetune",
    "run_gr1_finetune": "stages.gr1_finetune",
    "run_gr1_pretrain": "stages.gr1_pretrain",
    "run_offline_rl": "stages.offline_rl",
    "run_pretrain": "stages.pretrain",
    "run_value_pretrain": "stages.value_pretrain",
    "run_vqvae": "stages.vqvae",
    "train": "loop",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
