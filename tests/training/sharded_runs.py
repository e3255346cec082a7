"""What tests/training/test_sharded.py looks at, in one group of processes, since starting one takes seconds.

accelerate launch --config_file recipes/accelerate/fsdp2_cpu_test.yaml -m tests.training.sharded_runs WORK_DIR
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from hf_vpdd import VPDDVQVAE, VPDDVQVAEConfig
from hf_vpdd.errors import InputError
from hf_vpdd.training.distributed import ShardedModel, wrap_classes
from hf_vpdd.training.loop import Terminated, train
from hf_vpdd.training.options import TrainArguments
from hf_vpdd.training.task import Task

from . import all_stages
from .test_memory import VARIANTS, batch_of, policy
from .toy import ToyTask, toy_recipe


DEEPSPEED = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


class StoppedToy(ToyTask):
    """SIGTERM reaches one of the processes in step 3."""

    def batch(self, indices):
        if self.seen == 3 * 8 * 2 and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(indices)


def stop_and_resume(work: Path):
    """Of sharded runs: one to its end; one that is stopped and resumed; one that is resumed by whole models."""
    train(ToyTask(), toy_recipe(work / "whole_toy"))
    try:
        train(StoppedToy(), toy_recipe(work / "stopped"))
    except Terminated:
        pass
    if DEEPSPEED:  # cannot be turned off
        return train(ToyTask(seed=123), toy_recipe(work / "stopped"))
    if torch.distributed.get_rank() == 0:
        shutil.copytree(work / "stopped", work / "replicated")
    torch.distributed.barrier()
    train(ToyTask(seed=123), toy_recipe(work / "stopped"))
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    train(ToyTask(seed=123), toy_recipe(work / "replicated"))
    os.environ["ACCELERATE_USE_FSDP"] = "true"


def bad_step(work: Path) -> None:
    """The batch of all processes is the whole dataset with a sample that is not a number: no step may be taken."""
    recipe = toy_recipe(work / "bad", steps=1, gradient_accumulation_steps=1, batch_size=25, weight_decay=0.5)
    train(ToyTask(poison=(3,)), recipe)


def variants() -> dict[str, list[float]]:
    """name -> [loss, gradient norm, both of the same model cut into slices, how many of its modules are cut]."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from torch.distributed.fsdp import FSDPModule

    small = {"image_size": 16, "codebook_size": 12, "codebook_dim": 8, "hidden_size": 16, "num_res_layers": 1}
    axial = VPDDVQVAEConfig(variant="axial_3d", clip_frames=4, downsample=[4, 4, 4], **small)
    torch.manual_seed(1)
    tokenizer = VPDDVQVAE(axial)
    pixels = torch.rand(2, 3, 4, 16, 16) - 0.5
    models = {"axial_3d": (tokenizer.eval(), {"pixel_values": pixels})}
    for name in VARIANTS:
        model = policy(name).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        models[name] = (model, batch_of(model.config))
    found = {}
    for name, (model, batch) in models.items():
        AcceleratorState._reset_state()
        task = Task()
        task.model = model
        found[name] = _loss_and_norm(model, batch)
        holder = ShardedModel(Accelerator(), task, TrainArguments())
        holder.prepare()
        found[name] += _loss_and_norm(holder.model, batch)
        kinds = {type(m).__name__.removeprefix("FSDP") for m in holder.model.modules() if isinstance(m, FSDPModule)}
        assert kinds >= set(wrap_classes(model)), kinds
        found[name].append(len(kinds))
    return found


def _loss_and_norm(model, batch) -> list[float]:
    extra = {} if isinstance(model, VPDDVQVAE) else {"timesteps": torch.tensor([40, 90])}
    loss = model(**batch, **extra, generator=torch.Generator().manual_seed(3)).loss
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return [float(loss), float(norm)]


def refusals(work: Path) -> dict[str, str]:
    """What cannot be sharded says so."""
    found = {}
    for name in ("icvf", "offline_rl"):
        try:
            all_stages.run(name, work, work / "refused")
        except InputError as error:
            found[name] = str(error)
    try:
        train(ToyTask(), toy_recipe(work / "refused", compile=True))
    except InputError as error:
        found["compile"] = str(error)
    return found


def main() -> None:
    work = Path(sys.argv[1])
    stop_and_resume(work)
    bad_step(work)
    found = {"variants": {} if DEEPSPEED else variants(), "refusals": refusals(work)}
    for name in all_stages.SHARDABLE:
        all_stages.run(name, work, work / "sharded")
    half = {"mixed_precision": "bf16", "gradient_checkpointing": True, "init_from": str(work / "sharded/pretrain")}
    all_stages.run("finetune", work, work / "half", **half)
    if torch.distributed.get_rank() == 0:
        (work / "found.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
