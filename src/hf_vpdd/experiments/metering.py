"""What a training costs in time and memory, read from outside: a stage runs as it is inside `with Meter()`."""

import contextlib
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any


class Meter:
    """Reads clocks and memory before every optimiser step, when the gradients are there; so loading, evaluating and
    saving do not count. For the CPU, one process, one optimiser. The process should be fresh: its peak is what counts.

    Attributes (after at least two steps):
        trained: Parameters that got a gradient.
        state_bytes: Their gradients and the optimiser's moments, counted tensor by tensor.
        saved_bytes: What the first batch's forward pass kept for the backward pass, besides the parameters; likewise.
        began_mb, peak_mb: Resident memory when the first training batch went in, and the most since.
    """

    def __init__(self) -> None:
        self.trained = self.state_bytes = self.saved_bytes = 0
        self.began_mb = self.peak_mb = 0.0
        self._cpu: list[float] = []
        self._wall: list[float] = []
        self._saved: dict[int, int] = {}  # where a storage is: its bytes
        self._counting: Any = None

    def __enter__(self) -> "Meter":
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        self._batch = register_module_forward_pre_hook(self._before_forward)
        self._step = register_optimizer_step_pre_hook(self._before_step)
        return self

    def __exit__(self, *_) -> None:
        self._batch.remove()
        self._step.remove()
        self._stop_counting()

    @property
    def cpu_seconds_per_step(self) -> float:
        """Processor time of the median step, from step to step, with the batch's preparation; 0 of fewer than two."""
        return _between(self._cpu)

    @property
    def wall_seconds_per_step(self) -> float:
        return _between(self._wall)

    def _before_forward(self, module, inputs) -> None:
        import torch

        if not (module.training and torch.is_grad_enabled()):  # tokens and features are made without gradients
            return
        self._batch.remove()  # it is called for every layer: once is enough
        forget_peak()
        self.began_mb = resident_mb()
        self._parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self._counting = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept)
        self._counting.__enter__()

    def _keep(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._parameters:
            self._saved[storage.data_ptr()] = storage.nbytes()  # once, however many layers kept it
        return tensor.detach()  # itself, it could become a part of its own graph and never be freed

    def _stop_counting(self) -> None:
        if self._counting is not None:
            self._counting.__exit__(None, None, None)
            self._counting = None
            self.saved_bytes = sum(self._saved.values())

    def _before_step(self, optimizer, args, kwargs) -> None:
        self._stop_counting()
        self._cpu.append(time.process_time())
        self._wall.append(time.monotonic())
        self.peak_mb = max(self.peak_mb, resident_mb(peak=True))
        with_gradient = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.trained = sum(p.numel() for p in with_gradient)
        moments = [value for p in with_gradient for value in optimizer.state[p].values() if value.ndim]
        self.state_bytes = sum(tensor.nbytes for tensor in (*moments, *(p.grad for p in with_gradient)))


def _between(readings: Sequence[float]) -> float:
    return median([b - a for a, b in zip(readings, readings[1:])] or [0.0])


def resident_mb(peak: bool = False) -> float:
    """Resident memory of this process now, or the most since `forget_peak`, in MB of 2**20 bytes.

    Without /proc (Linux): the most since the process began, in both cases.
    """
    try:  # not getrusage: a child inherits its parent's peak there
        with open("/proc/self/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) / 1024
    except (OSError, KeyError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (1024**2 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Let the peak begin anew at what is held now, where the system can do that."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
