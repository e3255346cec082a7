"""DeepSpeed's ZeRO 2 and 3 as a way to hold the model; see `ShardedModel`, which needs nothing but torch.

What is trained is float32 with autocast, as everywhere in this package, not DeepSpeed's own bfloat16 weights. A
checkpoint is the same `state.pt` as without DeepSpeed: runs go from one to the other.
"""

from contextlib import nullcontext
from typing import Any

import torch

from ..errors import InputError
from .arguments import TrainArguments
from .distributed import ShardedModel
from .ema import Ema
from .optimizer import build_optimizer
from .task import Task


_MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeedModel(ShardedModel):
    """A copy of the task's model in a DeepSpeed engine, which clips, steps, and skips steps that are not finite."""

    def __init__(self, accelerator, task: Task, args: TrainArguments):
        super().__init__(accelerator, task, args)
        self.stage = self.plugin.zero_stage
        if self.stage not in (2, 3):
            raise InputError(f"DeepSpeed with zero_stage {self.stage}: give 2 or 3, as in recipes/accelerate/")

    def _plugin(self):
        plugin = self.accelerator.state.deepspeed_plugin
        config, args = plugin.deepspeed_config, self.args
        for part in ("offload_optimizer", "offload_param"):
            if (config["zero_optimization"].get(part) or {}).get("device", "none") != "none":
                raise InputError(f"DeepSpeed's {part} is not supported: set it to none")
        config.update(
            train_micro_batch_size_per_gpu=args.batch_size,
            train_batch_size=args.batch_size * self.accelerator.num_processes,
            gradient_accumulation_steps=1,  # the loop divides, and says when the last micro-batch comes
            gradient_clipping=args.clip,
            zero_allow_untested_optimizer=True,  # torch's own AdamW
        )
        if args.mixed_precision == "bf16" and self.task.half_weights:
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        return plugin

    def prepare(self) -> None:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        trained = self._copy_to_train()
        optimizer = build_optimizer(trained, self.args, self.task.learning_rate_multipliers)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.groups = optimizer.state_dict()["param_groups"]
        self.trained, self.named = trained, dict(trained.named_parameters())
        self.model, self.optimizer = self.accelerator.prepare(trained, optimizer)
        self.zero = self.model.optimizer  # DeepSpeed's, around torch's
        self._make_moments()
        unset_hf_deepspeed_config()  # else `from_pretrained` of the next stage in this process would cut what it loads

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.model.set_gradient_accumulation_boundary(is_boundary=last)
        self.model.backward(loss)

    def no_sync(self):
        return nullcontext()

    def clip(self, largest: float) -> torch.Tensor:
        self.model.step()  # clips, and leaves everything as it is if the norm is not finite
        norm = self.model.get_global_grad_norm()
        return torch.as_tensor(float("nan") if self.zero.overflow else float(norm), device=self.device)

    def step(self, bad: torch.Tensor) -> None:
        """`clip` has taken it."""

    # ------------------------------------------------------------------------------------------------- whole tensors

    def _gathered(self, local: torch.Tensor, p: torch.nn.Parameter) -> torch.Tensor | None:
        """A tensor cut as ZeRO 3 cuts `p`, whole on the main process."""
        local = local.detach().contiguous()
        parts = [torch.empty_like(local) for _ in range(self.accelerator.num_processes)]
        torch.distributed.all_gather(parts, local)
        return self._whole(torch.cat(parts)[: p.ds_numel].view(p.ds_shape))

    def _cut(self, whole: torch.Tensor, p: torch.nn.Parameter) -> torch.Tensor:
        """This process's part, as ZeRO 3 cuts `p`."""
        size = p.ds_tensor.numel()
        padded = torch.zeros(size * self.accelerator.num_processes, dtype=whole.dtype)
        padded[: whole.numel()] = whole.flatten()
        return padded[size * self.accelerator.process_index :][:size].to(self.device)

    def _weights(self) -> dict[str, torch.Tensor | None]:
        found = {}
        for name, value in self.trained.state_dict().items():
            p = self.named.get(name)
            found[name] = self._gathered(p.ds_tensor, p) if hasattr(p, "ds_tensor") else self._whole(value)
        return found

    def _whole_average(self, ema: Ema) -> list[torch.Tensor | None]:
        return [
            self._gathered(mine, p) if hasattr(p, "ds_tensor") else self._whole(mine)
            for mine, p in zip(ema.shadow, ema.parameters, strict=True)
        ]

    def state(self, ema: Ema | None) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_optimizer_state

        taken, moments = next(iter(self.zero.optimizer.state.values()))["step"].detach().cpu().clone(), {}
        for number, p in enumerate(self.parameters):
            whole = {name: self._whole(safe_get_full_optimizer_state(p, name)) for name in _MOMENTS}
            moments[number] = {"step": taken, **whole}
        return {**self._whole_state(ema), "optimizer": {"state": moments, "param_groups": self.groups}}

    def load_state(self, state: dict[str, Any], ema: Ema | None) -> None:
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        kept = self.task.kept_names(self.bare)
        with torch.no_grad():
            for name, value in self.trained.state_dict(keep_vars=True).items():
                if name not in kept:  # frozen, and there since the start
                    continue
                whole = state["model"][name]
                if hasattr(value, "ds_tensor"):
                    value.ds_tensor.copy_(self._cut(whole, value))
                if value.shape == whole.shape:  # there, or not cut at all
                    value.data.copy_(whole)
                if not value.requires_grad:
                    continue
                if self.stage == 3:
                    safe_set_local_fp32_param(value, self._cut(whole, value))
                else:
                    safe_set_full_fp32_param(value, whole.clone().to(self.device))
        for number, entry in state["optimizer"]["state"].items():
            for name in _MOMENTS:
                p, whole = self.parameters[number], entry[name]
                if self.stage == 3:
                    safe_set_local_optimizer_state(p, self._cut(whole, p), name)
                else:
                    safe_set_full_optimizer_state(p, whole.clone().to(self.device), name)
            for mine in self.zero.optimizer.state.values():
                mine["step"].copy_(entry["step"])
        if ema is not None:
            shadow = [
                self._cut(value, p) if hasattr(p, "ds_tensor") else value.clone()
                for value, p in zip(state["ema"]["shadow"], ema.parameters, strict=True)
            ]
            ema.load_state_dict({"updates": state["ema"]["updates"], "shadow": shadow})

    def _make_moments(self) -> None:
        """Adam's state, which torch makes at its first step. For ZeRO 2 that is too late: DeepSpeed notes where it is
        when the first of the groups of parameters has it, and never finds that of the others."""
        flat = self.zero.fp32_partitioned_groups_flat if self.stage == 3 else self.zero.single_partition_of_fp32_groups
        for tensor in flat:
            self.zero.optimizer.state[tensor] = {
                "step": torch.zeros((), dtype=torch.float32, device=self.device),
                **{name: torch.zeros_like(tensor) for name in _MOMENTS},
            }
        if self.stage == 2:
            self.zero._lazy_init_hp_params_optimizer_state()
