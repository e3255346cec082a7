"""One small run of every stage of every family, in each process of a group.

python -m tests.training.all_stages WORK_DIR NAME [STAGE ...]

Reads the dataset WORK_DIR/data, writes WORK_DIR/NAME/<stage>/ and, from every process, ranks.json: fingerprints of the
weights it ends with.
"""

import json
import sys
from pathlib import Path

import torch

from hf_vpdd.training import load_recipe
from hf_vpdd.training.stages import (
    finetune,
    gr1_finetune,
    gr1_pretrain,
    offline_rl,
    pretrain,
    value_pretrain,
    vqvae,
)
from hf_vpdd.training.stages.common import weights_fingerprint

from .gr1_data import gr1_experiment
from .small_data import experiment
from .vptr_data import vptr_experiment


# name -> (module, what runs it, recipe, stage, its overrides, the run it starts from)
RUNS = {
    "vqvae": (vqvae, vqvae.run_vqvae, experiment, "vqvae", {}, None),
    "pretrain": (pretrain, pretrain.run_pretrain, experiment, "pretrain", {}, "vqvae"),
    "finetune": (finetune, finetune.run_finetune, experiment, "finetune", {}, "pretrain"),
    "frozen": (finetune, finetune.run_finetune, experiment, "finetune", {"trunk_lr_multiplier": 0.0}, "pretrain"),
    "lora": (finetune, finetune.run_finetune, experiment, "finetune", {"lora": True, "lora_r": 2}, "pretrain"),
    "gr1_pretrain": (gr1_pretrain, gr1_pretrain.run_gr1_pretrain, gr1_experiment, "gr1_pretrain", {}, None),
    "gr1_finetune": (gr1_finetune, gr1_finetune.run_gr1_finetune, gr1_experiment, "gr1_finetune", {}, "gr1_pretrain"),
    "vip": (
        value_pretrain, value_pretrain.run_value_pretrain, vptr_experiment, "value_pretrain", {"objective": "vip"},
        None,
    ),
    "icvf": (
        value_pretrain, value_pretrain.run_value_pretrain, vptr_experiment, "value_pretrain", {"objective": "icvf"},
        None,
    ),
    "offline_rl": (offline_rl, offline_rl.run_offline_rl, vptr_experiment, "offline_rl", {"init": "scratch"}, None),
}  # fmt: skip
SHARDABLE = [name for name in RUNS if name not in ("icvf", "offline_rl")]


def run(name: str, work: Path, out: Path, **more) -> Path:
    """One run; `more` overrides options of its recipe."""
    module, runner, make, stage, overrides, start = RUNS[name]
    config = make(work / "data", out)
    common = {"steps": 2, "save_every": 0, "eval_every": 0, "tracker": "none", "mixed_precision": "no", **more}
    if start is not None:
        common.setdefault("init_from", str(out / start))
    return runner(load_recipe(stage, config, {**overrides, **common}, output_dir=str(out / name)))


def remember_models(kept: dict) -> None:
    """`kept["task"]` is the task of the last run."""
    for module, *_ in RUNS.values():
        if not hasattr(module.train, "plain"):
            plain = module.train

            def train(task, recipe, plain=plain):
                kept["task"] = task
                return plain(task, recipe)

            train.plain = plain
            module.train = train


def main() -> None:
    work, name, *names = sys.argv[1:]
    work = Path(work)
    kept, found = {}, {}
    remember_models(kept)
    for one in names or RUNS:
        run(one, work, work / name)
        model = kept["task"].model
        if not any(p.is_meta for p in model.parameters()):
            found[one] = weights_fingerprint(model)
    if torch.distributed.is_initialized():
        everywhere = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everywhere, found)
        if torch.distributed.get_rank() == 0:
            (work / name / "ranks.json").write_text(json.dumps(everywhere))
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
