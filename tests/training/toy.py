"""A small real task for the loop, and a script that runs it, so that tests can kill a process that trains.

python -m tests.training.toy OUTPUT_DIR [--steps 40] [--sleep 0.05] [--KEY VALUE of TrainArguments]
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from hf_vpdd.training.arguments import DataArguments, Recipe, TrainArguments
from hf_vpdd.training.loop import Evaluation, Task, train
from hf_vpdd.training.options import PretrainArguments


class ToyTask(Task):
    """Regression with dropout and input noise: every source of randomness a stage has.

    Args:
        sleep: seconds each batch takes, so that a test can kill the run in its middle.
        poison: sample indices whose input is NaN. plain: neither dropout nor noise.
    """

    def __init__(self, seed: int = 0, sleep: float = 0.0, poison: tuple[int, ...] = (), plain: bool = False):
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(50, 6, generator=generator)
        self.y = self.x @ torch.randn(6, 2, generator=generator)
        for index in poison:
            self.x[index] = float("nan")
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Linear(6, 16), nn.LayerNorm(16), nn.Dropout(0 if plain else 0.2), nn.Linear(16, 2)
        )
        self.num_samples, self.sleep, self.plain = len(self.x), sleep, plain
        self.fingerprints = {"dataset": "toy"}
        self.seen = 0  # state besides weights that must survive

    def batch(self, indices: np.ndarray):
        return {"x": self.x[indices], "y": self.y[indices]}

    def loss(self, model, batch, generator):
        time.sleep(self.sleep)
        self.seen += len(batch["x"])
        noise = 0.0 if self.plain else 0.1 * torch.randn(batch["x"].shape, generator=generator)
        loss = (model(batch["x"] + noise) - batch["y"]).square().mean()
        return loss, {"double": 2 * loss.detach()}

    def evaluate(self, model, generator, device, final):
        return Evaluation({"loss": float((model(self.x) - self.y).square().nanmean())})

    def save_model(self, folder: Path, model, final: bool):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


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


if __name__ == "__main__":
    from hf_vpdd.training.arguments import coerce

    options = dict(zip((name.lstrip("-") for name in sys.argv[2::2]), sys.argv[3::2], strict=True))
    sleep, plain = float(options.pop("sleep", 0)), options.pop("plain", "no") == "yes"
    kinds = TrainArguments.__annotations__
    arguments = {name: coerce(value, kinds[name], name) for name, value in options.items()}
    train(ToyTask(sleep=sleep, plain=plain), toy_recipe(sys.argv[1], **arguments))
