"""The training loop of every stage, on Accelerate.

What a stage trains on is a `Task`; how it is optimised, saved, resumed and logged is here and nowhere else. Everything
random in step `s` (batch, noise, dropout) is a function of (seed, s, micro-batch, rank), so a resumed run repeats an
uninterrupted one bit for bit on the CPU and there is no data-loader state to restore. Nothing reads a value back from
the device between log lines.
"""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_write_text
from .arguments import Recipe, TrainArguments
from .checkpoints import load_checkpoint, remove_checkpoints, save_checkpoint
from .ema import Ema
from .memory_format import to_channels_last
from .metadata import run_record, write_run_files
from .optimizer import build_optimizer, guarded_step, set_learning_rate
from .process import SignalFlag, torch_threads
from .sampling import step_generator, step_seed
from .schedules import learning_rate_factor
from .task import DiffusionTask, Evaluation, Task


@dataclass
class TrainResult:
    output_dir: Path
    steps: int
    metrics: dict[str, float]
    cpu_seconds: float


class Terminated(SystemExit):
    """SIGTERM arrived; the state is saved. Exit status 143, as a shell expects."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def train(task: Task, recipe: Recipe) -> TrainResult:
    """Train `task` by `recipe.train` into `recipe.output_dir`.

    Writes there: the final model, `checkpoint-*`, `metrics.jsonl` (one line per log or evaluation), `run.json`,
    `recipe.yaml`, `training.json` (summary, written last) and `tensorboard/`, `pictures/`.

    Raises:
        InputError: a checkpoint of another run in the output folder; too many steps that are not finite.
        Terminated: SIGTERM, after saving a checkpoint.
    """
    with torch_threads(recipe.train.num_threads), torch.random.fork_rng(), SignalFlag() as stop:
        return _Run(task, recipe, stop).run()


class _Run:
    def __init__(self, task: Task, recipe: Recipe, stop: "SignalFlag"):
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state()  # several runs in one process may differ in precision
        self.task, self.recipe, self.args, self.stop = task, recipe, recipe.train, stop
        self.output_dir = Path(recipe.output_dir)
        tracker = None if self.args.tracker == "none" else self.args.tracker
        if tracker and not find_spec(tracker):
            raise InputError(f"{tracker} is not installed: pip install 'hf-vpdd[train]', or give --tracker none")
        self.accelerator = Accelerator(
            mixed_precision=self.args.mixed_precision, log_with=tracker, project_dir=str(self.output_dir),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=task.has_unused_parameters)],
        )  # fmt: skip
        self.main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        self._prepare_model()
        self.sampler = task.sampler(self.args, self.accelerator.process_index, self.accelerator.num_processes)
        self.step = 0
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}
        zero = torch.zeros((), dtype=torch.int64, device=self.device)
        # On the device, so that a bad step costs no sync: skipped in all, skipped in a row now and at most, last one.
        self.skipped, self.in_a_row, self.worst_row, self.last_skipped = zero, zero.clone(), zero.clone(), zero - 1
        self.cpu_seconds = 0.0
        self.samples_per_step = self.args.batch_size * self.args.gradient_accumulation_steps
        self.samples_per_step *= self.accelerator.num_processes
        self.identity = {
            "stage": recipe.stage,
            "samples_per_step": self.samples_per_step,
            **{f"fingerprint of {name}": value for name, value in task.fingerprints.items()},
            **{key: value for key, value in recipe.flat().items() if key not in self._changeable()},
        }

    def _changeable(self) -> set[str]:
        """Options that may differ between a run and its resumption. A constant schedule can also be prolonged; the
        others depend on the number of steps from the start."""
        names = (
            "save_every keep_last log_every eval_every eval_samples max_nonfinite tracker progress num_threads "
            "compile gradient_checkpointing channels_last"
        ).split()
        names += ["steps"] if self.args.schedule == "constant" else []
        unused = getattr(self.recipe.options, "unused", list)()
        return (
            {f"train.{name}" for name in names}
            | {"data.root", "data.cache_dir"}
            | {f"{self.recipe.stage}.{name}" for name in unused}
        )

    def _prepare_model(self) -> None:
        model, args = self.task.model, self.args
        if args.gradient_checkpointing:
            model.activation_checkpointing_enable()
        model.to(self.device)
        if args.channels_last:
            to_channels_last(model)
        if self.device.type == "cpu" and hasattr(model, "set_attn_implementation"):
            # The explicit product trains about twice as fast there as the fused kernel (bfloat16, short sequences).
            model.set_attn_implementation("eager")
        if args.compile:
            model.compile()
        self.task.on_device(self.device, args)
        if self.task.own_optimizers:
            if args.gradient_accumulation_steps > 1:
                raise InputError(
                    "train.gradient_accumulation_steps must be 1 for this stage: give a larger batch_size"
                )
            self.model, self.optimizer = model, None
            self.parameters = [p for p in model.parameters() if p.requires_grad]
        else:
            optimizer = build_optimizer(model, args, self.task.learning_rate_multipliers)
            self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
            self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ema = None
        if args.ema_decay:
            self.ema = Ema(self.bare_model.parameters(), args.ema_decay, args.ema_every, args.ema_start)

    @property
    def bare_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    # ------------------------------------------------------------------------------------------------------ the loop

    def run(self) -> TrainResult:
        args = self.args
        if self.main:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            remove_checkpoints(self.output_dir, leftovers_only=self.recipe.resume != "no")
        self._resume()
        self._start_logs()
        # Threads help where the device works by itself; on the CPU they would only take a core away.
        pool = ThreadPoolExecutor(1) if self.device.type == "cuda" else None
        fetch = self._fetcher(pool)
        self.first_step = self.step
        started, last_log, cpu_before = time.monotonic(), time.monotonic(), self.cpu_seconds
        cpu_started = time.process_time()
        bar = tqdm(
            total=args.steps, initial=self.step, desc=self.recipe.stage, unit="step", smoothing=0.05,
            disable=not (self.main and args.progress), mininterval=0.5 if os.isatty(2) else 15.0,
        )  # fmt: skip
        metrics: dict[str, float] = {}
        self.task.train_mode(self.model)
        saved_at = evaluated_at = -1
        try:
            while self.step < args.steps:
                self._train_step(fetch)
                self.step += 1
                self.cpu_seconds = cpu_before + time.process_time() - cpu_started
                bar.update(1)
                if self.step % args.log_every == 0 or self.step == args.steps:
                    now = time.monotonic()
                    bar.set_postfix(self._log(now - last_log), refresh=False)
                    last_log = now
                if args.eval_every and self.step % args.eval_every == 0 and self.step < args.steps:
                    metrics, evaluated_at = self._evaluate(final=False), self.step
                if args.save_every and (self.step % args.save_every == 0 or self.step == args.steps):
                    self._save()
                    saved_at = self.step
                if self._stop_requested():
                    if saved_at != self.step:
                        self._save()
                    if self.main:
                        tqdm.write(f"SIGTERM: saved step {self.step} of {args.steps} in {self.output_dir}; "
                                   "the same command goes on from there")  # fmt: skip
                    raise Terminated
            if evaluated_at != self.step:
                metrics = self._evaluate(final=True)
        finally:
            bar.close()
            if pool:
                pool.shutdown(cancel_futures=True)
            for tracker in self.accelerator.trackers:  # `end_training` would also end the group of processes
                tracker.finish()
        self.cpu_seconds = cpu_before + time.process_time() - cpu_started
        self._finish(metrics, time.monotonic() - started)
        return TrainResult(self.output_dir, self.step, metrics, self.cpu_seconds)

    def _fetcher(self, pool: ThreadPoolExecutor | None):
        """A function (step, micro) -> batch on the device, which prepares the next one meanwhile where that helps."""
        ahead: dict[tuple[int, int], Any] = {}

        def load(key):
            return self.task.batch(self.sampler.batch(*key))

        def fetch(step: int, micro: int) -> dict[str, torch.Tensor]:
            key = (step, micro)
            batch = ahead.pop(key).result() if key in ahead else load(key)
            if pool is not None:
                last = micro + 1 == self.args.gradient_accumulation_steps
                following = (step + 1, 0) if last else (step, micro + 1)
                ahead[following] = pool.submit(load, following)
            return {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}

        return fetch

    def _train_step(self, fetch) -> None:
        args, rank = self.args, self.accelerator.process_index
        if self.task.own_optimizers:
            torch.manual_seed(step_seed(args.seed, self.step, 0, rank))
            generator = step_generator(self.device, args.seed, self.step, 0, rank)
            return self._count_step(self._own_step(fetch(self.step, 0), generator))
        set_learning_rate(self.optimizer, args.learning_rate * learning_rate_factor(self.step, args))
        parts = args.gradient_accumulation_steps
        bad = torch.zeros((), dtype=torch.bool, device=self.device)
        for micro in range(parts):
            batch = fetch(self.step, micro)
            torch.manual_seed(step_seed(args.seed, self.step, micro, rank))  # dropout
            generator = step_generator(self.device, args.seed, self.step, micro, rank)
            together = micro + 1 == parts
            with nullcontext() if together else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    loss, logs = self.task.loss(self.model, batch, generator)
                self.accelerator.backward(loss / parts)
            bad = bad | ~torch.isfinite(loss.detach())
            for name, value in {"loss": loss.detach(), **logs}.items():
                self.sums[name] = self.sums.get(name, 0.0) + value.float()
                self.counts[name] = self.counts.get(name, 0) + 1
        norm = self.accelerator.clip_grad_norm_(self.parameters, args.clip or float("inf"))
        self.sums["grad_norm"] = self.sums.get("grad_norm", 0.0) + norm
        self.counts["grad_norm"] = self.counts.get("grad_norm", 0) + 1
        # Gradients are averaged over ranks, so their norm is bad on all of them or on none; a loss is not.
        bad = bad | ~torch.isfinite(norm) if self.accelerator.num_processes == 1 else ~torch.isfinite(norm)
        self.task.before_update(self.bare_model)
        guarded_step(self.optimizer, bad)
        self._count_step(bad)

    def _count_step(self, bad: torch.Tensor) -> None:
        self.skipped = self.skipped + bad
        self.in_a_row = (self.in_a_row + 1) * bad
        self.worst_row = torch.maximum(self.worst_row, self.in_a_row)
        self.last_skipped = torch.where(bad, self.step, self.last_skipped)
        if self.ema is not None:
            self.ema.update(self.step + 1)

    def _own_step(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        """A step that the task takes by itself; returns whether it was not finite."""
        factor = learning_rate_factor(self.step, self.args)
        with self.accelerator.autocast():
            average = self._average if self.accelerator.num_processes > 1 else None
            logs, bad = self.task.step(batch, generator, factor, average)
        for name, value in logs.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.float()
            self.counts[name] = self.counts.get(name, 0) + 1
        return bad

    def _average(self, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """The mean over all processes."""
        return [self.accelerator.reduce(gradient, "mean") for gradient in gradients]

    # ------------------------------------------------------------------------------------------ logs and evaluation

    def _start_logs(self) -> None:
        if not self.main:
            return
        bare = self.bare_model
        self.record = run_record(
            self.recipe, self.task.fingerprints, processes=self.accelerator.num_processes, device=str(self.device),
            samples=self.task.num_samples, parameters=sum(p.numel() for p in bare.parameters()),
            trainable_parameters=sum(p.numel() for p in self.parameters),
        )  # fmt: skip
        write_run_files(self.output_dir, self.record)
        (self.output_dir / "training.json").unlink(missing_ok=True)
        path = self.output_dir / "metrics.jsonl"
        kept = []
        if self.step and path.is_file():  # lines after the checkpoint are about steps that will be repeated
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    values = json.loads(line)
                    # A finished run is evaluated once more, after its last checkpoint.
                    repeated = values["step"] == self.args.steps and any(key.startswith("val/") for key in values)
                    if values["step"] <= self.step and not repeated:
                        kept.append(line + "\n")
                except (ValueError, KeyError):
                    continue
        atomic_write_text(path, "".join(kept))
        if self.args.tracker != "none":
            self.accelerator.init_trackers(self.args.tracker, config=None)

    def _write_metrics(self, values: dict[str, float]) -> None:
        with open(self.output_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **values}) + "\n")
        if self.args.tracker != "none":
            self.accelerator.log(values, step=self.step)

    def _log(self, seconds: float) -> dict[str, str]:
        """Means since the last log line; the only place where the loop waits for the device."""
        values = {f"train/{name}": float(total) / self.counts[name] for name, total in self.sums.items()}
        steps = self.counts.get("grad_norm", 1)
        self.sums, self.counts = {}, {}
        values["train/learning_rate"] = self.args.learning_rate * learning_rate_factor(self.step - 1, self.args)
        rate = steps * self.samples_per_step / max(seconds, 1e-9)
        skipped, worst = int(self.skipped), int(self.worst_row)
        if skipped:
            values["train/skipped_steps"] = float(skipped)
        if self.main:
            self._write_metrics({**values, "cpu_seconds": round(self.cpu_seconds, 3)})
        if worst >= self.args.max_nonfinite:
            self._stop_nonfinite(worst)
        self.task.check({name.removeprefix("train/"): value for name, value in values.items()})
        postfix = {"loss": f"{values['train/loss']:.4f}", "samples/s": f"{rate:.0f}"}
        return {**postfix, "skipped": str(skipped)} if skipped else postfix

    def _stop_nonfinite(self, worst: int) -> None:
        step = int(self.last_skipped)
        if self.main:
            batches = [self.sampler.batch(step, m).tolist() for m in range(self.args.gradient_accumulation_steps)]
            content = {"step": step, "skipped_in_a_row": worst, "sample_indices": batches}
            atomic_write_text(self.output_dir / "nonfinite.json", json.dumps(content, indent=1))
        raise InputError(
            f"loss or gradient was not finite in {worst} steps in a row (train.max_nonfinite is "
            f"{self.args.max_nonfinite}), last in step {step}: lower the learning rate, or look at the samples named "
            f"in {self.output_dir / 'nonfinite.json'}"
        )

    def _evaluate(self, final: bool) -> dict[str, float]:
        """Metrics of the averaged weights, with the same noise every time, so that evaluations compare."""
        model = self.bare_model
        model.eval()
        generator = step_generator(self.device, self.args.seed + 1_000_003, 0)
        with self.ema.swapped() if self.ema else nullcontext(), torch.no_grad(), self.accelerator.autocast():
            result = self.task.evaluate(model, generator, self.device, final) if self.main else Evaluation()
        self.task.train_mode(self.model)
        if self.main and result.metrics:
            metrics = {f"val/{k}": float(v) for k, v in result.metrics.items()}
            self._write_metrics(metrics)
            if self.args.progress:
                shown = "  ".join(f"{k} {v:.4g}" for k, v in result.metrics.items())
                tqdm.write(f"[{self.recipe.stage} {self.step}/{self.args.steps}] {shown}")
        if self.main and result.pictures:
            self._write_pictures(result.pictures)
        self.accelerator.wait_for_everyone()
        return dict(result.metrics)

    def _write_pictures(self, pictures: dict[str, np.ndarray]) -> None:
        from .pictures import save_png

        for name, picture in pictures.items():
            save_png(self.output_dir / "pictures" / f"{name}-{self.step:06d}.png", picture)
        if self.args.tracker == "tensorboard":
            images = {name: picture[None] for name, picture in pictures.items()}
            self.accelerator.get_tracker("tensorboard").log_images(images, step=self.step, dataformats="NHWC")

    # ---------------------------------------------------------------------------------------------- saving, resuming

    def _save(self) -> None:
        self.accelerator.wait_for_everyone()
        if self.main:
            state = {
                "model": self.task.model_state(self.bare_model),
                "ema": self.ema.state_dict() if self.ema else None,
                "optimizer": self.optimizer.state_dict() if self.optimizer is not None else None,
                "task": self.task.state_dict(),
                "sums": self.sums, "counts": self.counts, "cpu_seconds": self.cpu_seconds,
                "skipped": [self.skipped, self.in_a_row, self.worst_row, self.last_skipped],
            }  # fmt: skip
            save_checkpoint(
                self.output_dir, self.step, state, self.identity, self._write_checkpoint_files, self.args.keep_last
            )
        self.accelerator.wait_for_everyone()

    def _write_checkpoint_files(self, folder: Path) -> None:
        write_run_files(folder, self.record)
        self._save_model(folder / "model", final=False)

    def _save_model(self, folder: Path, final: bool) -> None:
        """The averaged weights are what is saved; those for resuming are in state.pt."""
        with self.ema.swapped() if self.ema else nullcontext():
            self.task.save_model(folder, self.bare_model, final)

    def _resume(self) -> None:
        loaded = load_checkpoint(self.output_dir, self.recipe.resume, self.identity, warn=tqdm.write)
        if loaded is None:
            return
        self.step, state = loaded
        # state_dict to state_dict of the same class: no key renaming of from_pretrained in between.
        self.task.load_model_state(self.bare_model, state["model"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.task.load_state_dict(state["task"])
        self.sums = {k: v.to(self.device) for k, v in state["sums"].items()}
        self.counts, self.cpu_seconds = state["counts"], state["cpu_seconds"]
        self.skipped, self.in_a_row, self.worst_row, self.last_skipped = (v.to(self.device) for v in state["skipped"])
        if self.main and self.args.progress:
            tqdm.write(f"{self.recipe.stage}: going on from step {self.step} of {self.output_dir}")

    def _finish(self, metrics: dict[str, float], wall_seconds: float) -> None:
        self.accelerator.wait_for_everyone()
        if self.main:
            model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            with self.ema.swapped() if self.ema else nullcontext():
                self.task.save_model(self.output_dir, model, final=True)
            summary = {
                "stage": self.recipe.stage, "steps": self.step, "metrics": metrics, "skipped_steps": int(self.skipped),
                "cpu_seconds": round(self.cpu_seconds, 2), "wall_seconds": round(wall_seconds, 2),
                "samples_per_second": round(
                    (self.step - self.first_step) * self.samples_per_step / max(wall_seconds, 1e-9), 1
                ),
            }  # fmt: skip
            atomic_write_text(self.output_dir / "training.json", json.dumps(summary, indent=1) + "\n")
        self.accelerator.wait_for_everyone()

    def _stop_requested(self) -> bool:
        if self.accelerator.num_processes == 1:
            return self.stop.raised
        if self.step % 8:  # all ranks must agree on the step; asking at each would cost a sync
            return False
        flag = torch.tensor(float(self.stop.raised), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)


__all__ = ["DiffusionTask", "Evaluation", "Task", "Terminated", "TrainArguments", "TrainResult", "train"]
