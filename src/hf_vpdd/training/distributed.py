"""How the processes of a run hold its model: each of them whole (`WholeModel`), or each a slice of every weight
(`ShardedModel`, FSDP2; `deepspeed.DeepSpeedModel`). The loop talks to all alike; a checkpoint of one can be resumed by
the others.
"""

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import InputError
from .arguments import TrainArguments
from .ema import Ema
from .memory_format import to_channels_last
from .optimizer import build_optimizer, guarded_step
from .task import Task


def hold_model(accelerator, task: Task, args: TrainArguments) -> "WholeModel":
    """What the launcher asked for: FSDP2 or DeepSpeed if its configuration says so, else whole models.

    Raises:
        InputError: a way of sharding, or an option with it, that this loop cannot do.
    """
    if _asked_for("DEEPSPEED"):
        from .deepspeed import DeepSpeedModel

        return DeepSpeedModel(accelerator, task, args)
    if not _asked_for("FSDP") or accelerator.distributed_type == "NO":  # a process alone has nothing to share
        return WholeModel(accelerator, task, args)
    return ShardedModel(accelerator, task, args)


def accelerate_precision(args: TrainArguments) -> str:
    """What accelerate is to be told. Under DeepSpeed nothing: it would train in bfloat16 alone, without autocast."""
    return "no" if _asked_for("DEEPSPEED") else args.mixed_precision


def _asked_for(engine: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def wrap_classes(model: nn.Module) -> list[str]:
    """Names of the classes whose instances are gathered and freed as one: what `_no_split_modules` of the outermost
    transformers model declares, as far as this model has them."""
    owner = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    declared = set(getattr(owner, "_no_split_modules", None) or ())
    return sorted(declared & {type(module).__name__ for module in model.modules()})


class WholeModel:
    """Each process has all of the model; with several of them gradients are averaged (DDP).

    Attributes:
        model: what the loss is computed with, wrapped. bare: the task's own model, for evaluation and saving. trained:
            what `model` wraps.
        optimizer, parameters: of the loop; None and all trainable ones for a task that has optimisers of its own.
    """

    sharded = False

    def __init__(self, accelerator, task: Task, args: TrainArguments):
        self.accelerator, self.task, self.args = accelerator, task, args
        self.device = accelerator.device
        self.bare = self.trained = task.model

    def prepare(self) -> None:
        """Put the model on its device and build the optimiser."""
        model, args = self.bare, self.args
        model.to(self.device)
        if args.channels_last:
            to_channels_last(model)
        if args.compile:
            model.compile()
        self.task.on_device(self.device, args)
        if self.task.own_optimizers:
            self.model, self.optimizer = model, None
            self.parameters = [p for p in model.parameters() if p.requires_grad]
        else:
            optimizer = build_optimizer(model, args, self.task.learning_rate_multipliers)
            self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
            self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def average(self) -> Ema | None:
        """The moving average that `args` ask for."""
        args = self.args
        if not args.ema_decay:
            return None
        return Ema(self.trained.parameters(), args.ema_decay, args.ema_every, args.ema_start)

    def train_mode(self) -> None:
        self.task.train_mode(self.model)

    def no_sync(self):
        """Context for the forward and backward of all micro-batches but a step's last."""
        return self.accelerator.no_sync(self.model)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """`last`: of the micro-batches of a step."""
        self.accelerator.backward(loss)

    def clip(self, largest: float) -> torch.Tensor:
        """Scale the gradients to a norm of at most `largest`; returns the norm before, 0-dim, the same everywhere."""
        return self.accelerator.clip_grad_norm_(self.parameters, largest)

    def step(self, bad: torch.Tensor) -> None:
        """One step of the optimiser unless `bad`, a 0-dim bool that is the same everywhere."""
        guarded_step(self.optimizer, bad, self.accelerator.scaler)

    def state(self, ema: Ema | None) -> dict[str, Any]:
        """What resuming needs of weights, average and optimiser. All processes call it, the main one gets it."""
        return {
            "model": self.task.model_state(self.bare),
            "ema": ema.state_dict() if ema else None,
            "optimizer": self.optimizer.state_dict() if self.optimizer is not None else None,
        }

    def load_state(self, state: dict[str, Any], ema: Ema | None) -> None:
        # state_dict to state_dict of the same class: no key renaming of from_pretrained in between.
        self.task.load_model_state(self.bare, state["model"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        if ema is not None:
            ema.load_state_dict(state["ema"])

    def collect(self, ema: Ema | None) -> None:
        """All processes call it before the main one enters `averaged`."""

    def averaged(self, ema: Ema | None):
        """Context for the main process: `bare` holds the averaged weights (without an average, the weights)."""
        return ema.swapped() if ema else nullcontext()

    def evaluating(self, ema: Ema | None):
        """As `averaged`, with `bare` on the device."""
        return self.averaged(ema)

    def final_model(self) -> nn.Module:
        """The model without what the wrappers did to its forward."""
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)


class ShardedModel(WholeModel):
    """FSDP2 (torch's `fully_shard`, applied by accelerate): weights, gradients, moments and average are cut into as
    many slices as there are processes; a block's weights are gathered while it runs.

    What is trained is a copy of the task's model. The task's own one stays whole, in the main process's memory alone
    (meta elsewhere), and gets the averaged weights for evaluation and saving. So stages are written as for one
    process, and files do not tell how many processes wrote them.
    """

    sharded = True

    def __init__(self, accelerator, task: Task, args: TrainArguments):
        super().__init__(accelerator, task, args)
        if task.unshardable:
            raise InputError(
                f"FSDP2 and DeepSpeed cannot be used here: {task.unshardable}. Launch with "
                "recipes/accelerate/multi_gpu_bf16.yaml (every GPU holds the model, which is small)"
            )
        if args.compile:
            raise InputError("--compile does not go together with FSDP2 or DeepSpeed: leave it out")
        self.plugin = self._plugin()

    def _plugin(self):
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        state = self.accelerator.state
        if state.distributed_type == DistributedType.MULTI_CPU:
            # accelerate leaves the FSDP configuration out on CPUs, though torch can do it there.
            plugin = FullyShardedDataParallelPlugin()
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
        plugin = getattr(state, "fsdp_plugin", None)
        if plugin is None or plugin.fsdp_version != 2:
            raise InputError("FSDP 1 is not supported: set fsdp_version to 2, as recipes/accelerate/fsdp2.yaml does")
        if plugin.transformer_cls_names_to_wrap is None:
            plugin.transformer_cls_names_to_wrap = wrap_classes(self.task.model)
        if self.args.mixed_precision == "bf16" and self.task.half_weights:
            from torch.distributed.fsdp import MixedPrecisionPolicy

            # Weights travel as bfloat16, gradients are summed in float32. Inputs are left alone: labels are among
            # them, and autocast, which is on as without FSDP, casts what goes into each product.
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        else:  # what accelerate put there would cast weights and inputs
            plugin.mixed_precision_policy = None
        return plugin

    def _copy_to_train(self) -> nn.Module:
        """A copy of the task's model on the device; from here on only the main process has the model itself."""
        shared = {id(thing): thing for thing in self.task.shared_with_copies()}
        trained = copy.deepcopy(self.bare, shared)
        self.task.on_device(self.device, self.args)
        if not self.accelerator.is_main_process:
            self.bare.to("meta")
        trained.to(self.device)
        for p in trained.parameters():  # FSDP2 refuses the channels-last order of convolutions
            p.data = p.data.contiguous()
        return trained

    def prepare(self) -> None:
        from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

        # A warning for code that changes outputs in place, which the losses do not.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        trained = self._copy_to_train()
        # accelerate asks for them, to cut them apart from the rest; not all of these networks begin with a table.
        trained.get_input_embeddings = trained.get_output_embeddings = lambda: None
        optimizer = build_optimizer(trained, self.args, self.task.learning_rate_multipliers)
        self.model, self.optimizer = self.accelerator.prepare(trained, optimizer)
        self.trained = self.model
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                for name in getattr(module, "weight_methods", ()):
                    register_fsdp_forward_method(module, name)

    def train_mode(self) -> None:
        self.task.train_mode(self.bare)
        for trained, told in zip(self.trained.modules(), self.bare.modules(), strict=True):
            trained.training = told.training

    def clip(self, largest: float) -> torch.Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).full_tensor()
        scale = (largest / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([gradient.to_local() for gradient in gradients], scale)
        return norm

    def step(self, bad: torch.Tensor) -> None:
        from torch.distributed.tensor.experimental import implicit_replication

        with implicit_replication():  # `bad`, an ordinary tensor, meets sliced ones in the fused kernel
            guarded_step(self.optimizer, bad, self.accelerator.scaler)

    # ----------------------------------------------------------------------------------- whole tensors, one at a time

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """On the main process's CPU; None elsewhere. All processes ask for the same tensors in the same order."""
        if hasattr(tensor, "full_tensor"):
            tensor = tensor.full_tensor()
        return tensor.detach().cpu().clone() if self.accelerator.is_main_process else None

    def _whole_average(self, ema: Ema) -> list[torch.Tensor | None]:
        return [self._whole(_like(mine, p)) for mine, p in zip(ema.shadow, ema.parameters, strict=True)]

    def _weights(self) -> dict[str, torch.Tensor | None]:
        return {name: self._whole(value) for name, value in self.trained.state_dict().items()}

    def state(self, ema: Ema | None) -> dict[str, Any]:
        optimizer = self.optimizer.state_dict()
        moments = {
            number: {name: self._whole(value) for name, value in entry.items()}
            for number, entry in optimizer["state"].items()
        }
        return {**self._whole_state(ema), "optimizer": {**optimizer, "state": moments}}

    def _whole_state(self, ema: Ema | None) -> dict[str, Any]:
        """`state`, but for the optimiser's part."""
        average = {"updates": ema.updates, "shadow": self._whole_average(ema)} if ema else None
        kept = self.task.kept_names(self.bare)
        weights = {name: tensor for name, tensor in self._weights().items() if name in kept}
        return {"model": weights, "ema": average}

    def load_state(self, state: dict[str, Any], ema: Ema | None) -> None:
        kept = self.task.kept_names(self.bare)
        mine = {name: value for name, value in self.model.state_dict().items() if name in kept}
        if mine.keys() != state["model"].keys():
            raise InputError(f"the checkpoint has other weights: {sorted(mine.keys() ^ state['model'].keys())[:5]}")
        with torch.no_grad():
            for name, value in mine.items():
                _local(value).copy_(_slice_of(state["model"][name], value))
        saved, moments = state["optimizer"], {}
        for number, entry in saved["state"].items():
            p = self.parameters[number]
            # What has the shape of the weight is cut as it is; the count of steps is not.
            moments[number] = {
                name: _like(_slice_of(value, p).to(self.device), p) if value.shape == p.shape else value.clone()
                for name, value in entry.items()
            }
        self.optimizer.load_state_dict({**saved, "state": moments})
        if ema is not None:
            shadow = [_slice_of(value, p) for value, p in zip(state["ema"]["shadow"], ema.parameters, strict=True)]
            ema.load_state_dict({"updates": state["ema"]["updates"], "shadow": shadow})

    def collect(self, ema: Ema | None) -> None:
        weights = self._weights()
        if ema:
            names = {id(p): name for name, p in self.trained.named_parameters()}
            averages = self._whole_average(ema)
            weights |= {names[id(p)]: mine for p, mine in zip(ema.parameters, averages, strict=True)}
        if self.accelerator.is_main_process:
            self.bare.load_state_dict(weights)

    def averaged(self, ema: Ema | None):
        return nullcontext()

    @contextmanager
    def evaluating(self, ema: Ema | None) -> Iterator[None]:
        if not self.accelerator.is_main_process:
            yield
            return
        self.bare.to(self.device)
        try:
            yield
        finally:
            self.bare.to("cpu")

    def final_model(self) -> nn.Module:
        return self.bare


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's slice."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _like(local: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A slice as the whole it is cut from, cut as `parameter` is."""
    if not hasattr(parameter, "device_mesh"):
        return local
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape,
        stride=parameter.stride(),
    )  # fmt: skip


def _slice_of(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A copy of this process's slice of a tensor that every process has."""
    if not hasattr(like, "device_mesh"):
        return whole.clone()
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).to_local().clone()
