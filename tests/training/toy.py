"""A small real task for the loop, and a script that runs it, so that tests can kill a process that trains.

python -m tests.training.toy OUTPUT_DIR [--steps 40] [--sleep 0.05] [--KEY VALUE of ToyTask or TrainArguments]
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from hf_vpdd.schedulers.scheduling_mask_and_replace import MaskAndReplaceScheduler
from hf_vpdd.training.arguments import DataArguments, Recipe, TrainArguments
from hf_vpdd.training.loop import Evaluation, Task, train
from hf_vpdd.training.options import PretrainArguments


class ToyTask(Task):
    """Regression with dropout and input noise: every source of randomness a stage has.

    Args:
        sleep: seconds each batch takes, so that a test can kill the run in its middle. save_sleep: each save takes.
        poison: sample indices whose input is NaN. plain: neither dropout nor noise.
        history: noise levels drawn by importance, as VPDD's, whose history has to outlive a stop.
        lora: train adapters alone.
    """

    def __init__(
        self, seed: int = 0, sleep: float = 0.0, poison: tuple[int, ...] = (), plain: bool = False,
        history: bool = False, lora: bool = False, save_sleep: float = 0.0,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(50, 6, generator=generator)
        self.y = self.x @ torch.randn(6, 2, generator=generator)
        for index in poison:
            self.x[index] = float("nan")
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Linear(6, 16), nn.LayerNorm(16), nn.Dropout(0 if plain else 0.2), nn.Linear(16, 2)
        )
        if lora:
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(r=2, lora_alpha=16, lora_dropout=0.1, target_modules=["0", "3"])
            self.model = get_peft_model(self.model, config)
        self.num_samples, self.sleep, self.plain, self.save_sleep = len(self.x), sleep, plain, save_sleep
        self.fingerprints = {"dataset": "toy"}
        self.seen = 0  # state besides weights that must survive
        self.scheduler = MaskAndReplaceScheduler(num_train_timesteps=4) if history else None

    def batch(self, indices: np.ndarray):
        return {"x": self.x[indices], "y": self.y[indices]}

    def loss(self, model, batch, generator):
        time.sleep(self.sleep)
        self.seen += len(batch["x"])
        if self.scheduler is not None:
            return self._weighted_loss(model, batch, generator)
        noise = 0.0 if self.plain else 0.1 * torch.randn(batch["x"].shape, generator=generator)
        loss = (model(batch["x"] + noise) - batch["y"]).square().mean()
        return loss, {"double": 2 * loss.detach()}

    def _weighted_loss(self, model, batch, generator):
        timesteps, chances = self.scheduler.sample_timesteps(len(batch["x"]), generator=generator)
        noise = 0.2 * timesteps[:, None] * torch.randn(batch["x"].shape, generator=generator)
        each = (model(batch["x"] + noise) - batch["y"]).square().mean(1)
        self.scheduler.update_importance(timesteps, each.detach())
        return (each / (len(self.scheduler) * chances).float()).mean(), {}

    def evaluate(self, model, generator, device, final):
        return Evaluation({"loss": float((model(self.x) - self.y).square().nanmean())})

    def save_model(self, folder: Path, model, final: bool):
        folder.mkdir(parents=True, exist_ok=True)
        time.sleep(self.save_sleep)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")

    def state_dict(self):
        return {"seen": self.seen, "scheduler": None if self.scheduler is None else self.scheduler.state_dict()}

    def load_state_dict(self, state):
        self.seen = state["seen"]
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])


def toy_recipe(output_dir, resume: str = "auto", **train_arguments) -> Recipe:
    defaults = {
        "steps": 20, "batch_size": 8, "learning_rate": 0.01, "ema_decay": 0.9, "save_every": 5, "log_every": 3,
        "eval_every": 0, "tracker": "none", "progress": False, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    return Recipe(
        stage="pretrain",
        output_dir=str(output_dir),
        init_from=None,
        resume=resume,
        data=DataArguments(root=["toy"]),
        train=TrainArguments(**{**defaults, **train_arguments}),
        options=PretrainArguments(),
    )


def main(arguments: list[str]) -> None:
    """`arguments` as on the command line, see above."""
    from hf_vpdd.training.arguments import coerce

    options = dict(zip((name.lstrip("-") for name in arguments[1::2]), arguments[2::2], strict=True))
    kinds = {"init_seed": int, "sleep": float, "save_sleep": float, "plain": bool, "history": bool, "lora": bool}
    own = {name: coerce(options.pop(name), kind, name) for name, kind in kinds.items() if name in options}
    own["seed"] = own.pop("init_seed", 0)
    kinds = TrainArguments.__annotations__
    given = {name: coerce(value, kinds[name], name) for name, value in options.items()}
    train(ToyTask(**own), toy_recipe(arguments[0], **given))


if __name__ == "__main__":
    main(sys.argv[1:])
