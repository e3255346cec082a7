"""The training loop of every stage, on Accelerate.

What a stage trains on is a `Task`; how it is optimised, saved, resumed and logged is here and nowhere else. Everything
random in step `s` (batch, noise, dropout) is a function of (seed, s, micro-batch, rank), so a resumed run repeats an
uninterrupted one bit for bit on the CPU and there is no data-loader state to restore. Nothing reads a value back from
the device between log lines.
"""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_write_text
from .arguments import Recipe, TrainArguments
from .best import BestCheckpoint, read_best
from .checkpoints import checkpoint_name, prune_checkpoints, remove_checkpoints, save_checkpoint
from .disk import full_disk_named, require_space
from .distributed import accelerate_precision, hold_model
from .logs import RunLog
from .metadata import run_record, write_run_files
from .nonfinite import save_nonfinite_batch
from .optimizer import set_learning_rate
from .preflight import check_before_work
from .process import SignalFlag, torch_threads
from .processes import join_processes, load_checkpoint_everywhere
from .rollouts import Rollouts
from .sampling import step_generator, step_seed
from .schedules import learning_rate_factor
from .task import DiffusionTask, Evaluation, Task
from .trackers import tracker_names


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

    Writes there: the final model, `checkpoint-*` and `best.json`, `metrics.jsonl` (one line per log or evaluation),
    `run.json`, `recipe.yaml`, `training.json` (summary, written last) and `tensorboard/`, `pictures/`, `videos/`,
    `rollouts/`; docs/training.md says what each holds.

    Raises:
        InputError: a checkpoint of another run in the output folder; too many steps that are not finite; a tracker or
            precision that this machine lacks; a folder that cannot be written to; a full disk.
        Terminated: SIGTERM, after saving a checkpoint.
    """
    with torch_threads(recipe.train.num_threads), torch.random.fork_rng(), SignalFlag() as stop:
        return _Run(task, recipe, stop).run()


class _Run:
    def __init__(self, task: Task, recipe: Recipe, stop: "SignalFlag"):
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState
        from accelerate.utils import ProjectConfiguration

        AcceleratorState._reset_state()  # several runs in one process may differ in precision
        self.task, self.recipe, self.args, self.stop = task, recipe, recipe.train, stop
        self.output_dir = Path(recipe.output_dir)
        check_before_work(recipe)
        join_processes()
        self.accelerator = Accelerator(
            mixed_precision=accelerate_precision(self.args), log_with=tracker_names(self.args.tracker) or None,
            project_config=ProjectConfiguration(str(self.output_dir), str(self.output_dir / "tensorboard")),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=task.has_unused_parameters)],
        )  # fmt: skip
        self.main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        self.rollouts = None
        if self.args.rollout_every:
            self.rollouts = Rollouts(self.args, task.sentences or (), self.output_dir)
        self.log, self.best = RunLog(self.accelerator, recipe), BestCheckpoint(self.args.keep_best, recipe.stage)
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
        others depend on the number of steps from the start. The number of processes may differ too, if a step keeps
        its number of samples, which is compared."""
        names = (
            "save_every keep_last keep_best log_every eval_every eval_samples eval_videos max_nonfinite tracker "
            "tracker_project run_name progress num_threads compile gradient_checkpointing channels_last rollout_every "
            "rollout_episodes rollout_tasks rollout_protocol rollout_max_steps rollout_workers rollout_videos "
            "batch_size gradient_accumulation_steps"
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
            if not hasattr(model, "activation_checkpointing_enable"):
                raise InputError(f"train.gradient_checkpointing: {type(model).__name__} does not support it")
            model.activation_checkpointing_enable()
        if self.device.type == "cpu" and hasattr(model, "set_attn_implementation"):
            # The explicit product trains about twice as fast there as the fused kernel (bfloat16, short sequences).
            model.set_attn_implementation("eager")
        if self.task.own_optimizers and args.mixed_precision == "fp16":
            raise InputError(
                "train.mixed_precision fp16: this stage takes its own steps, without loss scaling; use bf16"
            )
        if self.task.own_optimizers and args.gradient_accumulation_steps > 1:
            raise InputError("train.gradient_accumulation_steps must be 1 for this stage: give a larger batch_size")
        self.holder = hold_model(self.accelerator, self.task, args)
        if self.holder.sharded and args.mixed_precision == "fp16":
            raise InputError("train.mixed_precision fp16 does not go with FSDP2 or DeepSpeed here: use bf16")
        self.holder.prepare()
        self.model, self.optimizer, self.parameters = self.holder.model, self.holder.optimizer, self.holder.parameters
        self.ema = self.holder.average()

    @property
    def bare_model(self) -> nn.Module:
        return self.holder.bare

    # ------------------------------------------------------------------------------------------------------ the loop

    def run(self) -> TrainResult:
        args = self.args
        if self.main:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            remove_checkpoints(self.output_dir, leftovers_only=self.recipe.resume != "no")
        self._resume()
        self._require_room()
        self._start_logs()
        # Threads help where the device works by itself; on the CPU they would only take a core away.
        pool = ThreadPoolExecutor(1) if self.device.type == "cuda" else None
        fetch = self._fetcher(pool)
        self.first_step = self.step
        started, last_log, cpu_before = time.monotonic(), time.monotonic(), self.cpu_seconds
        cpu_started = time.process_time()
        bar = self.log.bar(self.step)
        metrics: dict[str, float] = {}
        self.holder.train_mode()
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
                paused = time.monotonic()
                improved, last = False, self.step == args.steps
                if args.eval_every and self.step % args.eval_every == 0 and not last:
                    metrics, evaluated_at = self._evaluate(final=False), self.step
                    improved = self.best.offer(self.step, {f"val/{k}": v for k, v in metrics.items()})
                if self.rollouts and self.step % args.rollout_every == 0:
                    improved |= self._roll_out()
                if args.save_every and (improved or self.step % args.save_every == 0 or last):
                    self._save()
                    saved_at = self.step
                last_log += time.monotonic() - paused  # speed is that of the steps
                if self._stop_requested():
                    if saved_at != self.step:
                        self._save()
                    if self.main:
                        tqdm.write(f"SIGTERM: saved step {self.step} of {args.steps} in {self.output_dir}; "
                                   "the same command goes on from there")  # fmt: skip
                    raise Terminated
            if evaluated_at != self.step:
                metrics = self._evaluate(final=True)
                if self.best.offer(self.step, {f"val/{k}": v for k, v in metrics.items()}):
                    self._keep_best()
        finally:
            bar.close()
            if pool:
                pool.shutdown(cancel_futures=True)
            self.log.finish()
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
            with nullcontext() if together else self.holder.no_sync():
                with self.accelerator.autocast():
                    loss, logs = self.task.loss(self.model, batch, generator)
                self.holder.backward(loss / parts, last=together)
            bad = bad | ~torch.isfinite(loss.detach())
            for name, value in {"loss": loss.detach(), **logs}.items():
                self.sums[name] = self.sums.get(name, 0.0) + value.float()
                self.counts[name] = self.counts.get(name, 0) + 1
        norm = self.holder.clip(args.clip or float("inf"))
        self.sums["grad_norm"] = self.sums.get("grad_norm", 0.0) + norm
        self.counts["grad_norm"] = self.counts.get("grad_norm", 0) + 1
        # Gradients are averaged over ranks, so their norm is bad on all of them or on none; a loss is not.
        bad = bad | ~torch.isfinite(norm) if self.accelerator.num_processes == 1 else ~torch.isfinite(norm)
        self.task.before_update(self.bare_model)
        self.holder.step(bad)
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
        self.log.start(self.record, self.step)

    def _require_room(self) -> None:
        """One checkpoint has to fit on the disk, and the final model."""
        if not self.main:
            return
        sizes = [p.numel() * p.element_size() for p in self.bare_model.parameters()]
        trained = 4 * sum(p.numel() for p in self.parameters)  # two moments, and the average
        needed = 2 * sum(sizes) + (3 if self.ema else 2) * trained if self.args.save_every else sum(sizes)
        require_space(self.output_dir, needed, "a checkpoint" if self.args.save_every else "the model")

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
        self.log.metrics(values, self.step, cpu_seconds=round(self.cpu_seconds, 3))
        if worst >= self.args.max_nonfinite:
            self._stop_nonfinite(worst)
        self.task.check({name.removeprefix("train/"): value for name, value in values.items()})
        postfix = {"loss": f"{values['train/loss']:.4f}", **self.log.speed(rate, self.step)}
        return {**postfix, "skipped": str(skipped)} if skipped else postfix

    def _stop_nonfinite(self, worst: int) -> None:
        step = int(self.last_skipped)
        record = save_nonfinite_batch(  # of every process: any of them may have met the bad sample
            self.output_dir, self.task, self.sampler, self.args, step, worst, self.accelerator.process_index
        )
        raise InputError(
            f"loss or gradient was not finite in {worst} steps in a row (train.max_nonfinite is "
            f"{self.args.max_nonfinite}), last in step {step}: lower the learning rate, or look at the batch, "
            f"kept in {record} and beside it (hf_vpdd.training.load_nonfinite_batch reads it)"
        )

    def _evaluate(self, final: bool) -> dict[str, float]:
        """Metrics of the averaged weights, with the same noise every time, so that evaluations compare."""
        model = self.bare_model
        model.eval()
        generator = step_generator(self.device, self.args.seed + 1_000_003, 0)
        self.holder.collect(self.ema)
        with self.holder.evaluating(self.ema), torch.no_grad(), self.accelerator.autocast():
            result = self.task.evaluate(model, generator, self.device, final) if self.main else Evaluation()
        self.holder.train_mode()
        if result.metrics:
            self.log.metrics({f"val/{k}": float(v) for k, v in result.metrics.items()}, self.step)
            self.log.say(self.step, "  ".join(f"{k} {v:.4g}" for k, v in result.metrics.items()))
        self.log.pictures(result.pictures, self.step)
        self.log.videos(result.videos, self.step)
        self.accelerator.wait_for_everyone()
        return self._from_main(dict(result.metrics))

    def _roll_out(self) -> bool:
        """Let the policy act in the simulator; whether that was the best one so far."""
        values = {}
        self.holder.collect(self.ema)
        if self.main:
            try:
                with self.holder.averaged(self.ema):
                    values, films = self.rollouts.play(
                        lambda folder: self.task.save_policy(folder, self.bare_model), self.device, self.step,
                        self.args.progress,
                    )  # fmt: skip
            except RuntimeError as error:  # a simulator that dies ends no training of days; bad input does
                self.log.say(self.step, f"rollouts failed, training goes on: {error}")
            else:
                self.log.metrics(values, self.step)
                self.log.films(films, self.step)
                self.log.say(self.step, self.rollouts.summary(values))
        self.holder.train_mode()
        self.accelerator.wait_for_everyone()
        return self.best.offer(self.step, self._from_main(values))

    def _from_main(self, values: dict[str, float]) -> dict[str, float]:
        """What the main process measured, on all of them: they must agree about what is the best."""
        if self.accelerator.num_processes == 1:
            return values
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([values])[0]

    # ---------------------------------------------------------------------------------------------- saving, resuming

    def _save(self) -> None:
        self.accelerator.wait_for_everyone()
        held = self.holder.state(self.ema)
        self.holder.collect(self.ema)
        if self.main:
            state = {
                **held,
                "task": self.task.state_dict(),
                "sums": self.sums, "counts": self.counts, "cpu_seconds": self.cpu_seconds,
                "skipped": [self.skipped, self.in_a_row, self.worst_row, self.last_skipped],
                "best": self.best.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            }  # fmt: skip
            save_checkpoint(
                self.output_dir, self.step, state, self.identity, self._write_checkpoint_files, self.args.keep_last,
                self._best_steps(),
            )  # fmt: skip
            if self.best.step == self.step:
                self._keep_best()
        self.accelerator.wait_for_everyone()

    def _keep_best(self) -> None:
        """`best.json` names the checkpoint of this step; the best one before it may go."""
        if self.main and self.args.save_every:
            self.best.write(self.output_dir, checkpoint_name(self.step))
            prune_checkpoints(self.output_dir, self.args.keep_last, self._best_steps())

    def _best_steps(self) -> set[int]:
        """Of the best checkpoint, and of the one before it as long as best.json names that."""
        named = read_best(self.output_dir) or {"step": None}
        return {step for step in (self.best.step, named["step"]) if self.best.metric and step is not None}

    def _write_checkpoint_files(self, folder: Path) -> None:
        write_run_files(folder, self.record)
        self._save_model(folder / "model", final=False)

    def _save_model(self, folder: Path, final: bool) -> None:
        """The averaged weights are what is saved; those for resuming are in state.pt."""
        with self.holder.averaged(self.ema):
            self.task.save_model(folder, self.bare_model, final)

    def _resume(self) -> None:
        loaded = load_checkpoint_everywhere(
            self.accelerator, self.output_dir, self.recipe.resume, self.identity, tqdm.write, self.holder.sharded
        )
        if loaded is None:
            return
        self.step, state = loaded
        self.holder.load_state(state, self.ema)
        self.task.load_state_dict(state["task"])
        self.sums = {k: v.to(self.device) for k, v in state["sums"].items()}
        self.counts, self.cpu_seconds = state["counts"], state["cpu_seconds"]
        self.skipped, self.in_a_row, self.worst_row, self.last_skipped = (v.to(self.device) for v in state["skipped"])
        self.best.resume(state.get("best", {}), self.output_dir, self.step)  # not in checkpoints of earlier versions
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.main and self.args.progress:
            tqdm.write(f"{self.recipe.stage}: going on from step {self.step} of {self.output_dir}")

    def _finish(self, metrics: dict[str, float], wall_seconds: float) -> None:
        self.accelerator.wait_for_everyone()
        self.holder.collect(self.ema)
        if self.main:
            model = self.holder.final_model()
            size = sum(p.numel() * p.element_size() for p in self.bare_model.parameters())
            with full_disk_named(self.output_dir, size), self.holder.averaged(self.ema):
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
