"""What a control step of GR-1 costs when nothing is encoded twice, beside the plain window of the released code.

    python benchmarks/gr1_control_step.py                          # official size, a few minutes on one core
    python benchmarks/gr1_control_step.py --quick --json           # under a minute; one object a line
    python benchmarks/gr1_control_step.py --compile --bf16         # further rows

"plain window" is the whole window through the whole network, as the released controller does at every step: 20 frames,
the sentence, 230 tokens; its preprocessing is not counted. "controller" is `RobotPolicy.select_action`, all of it, on
the same frames with the same weights (random ones) in the same run; the two take turns, medians are compared, and the
largest difference between their actions is shown. Preprocessing is part of this side only, so the ratio is a lower
bound.

`ms` is wall time. `ratio` is the plain window's time over the row's, by processor time on a CPU (the machine may have
other work; with one thread it is the wall time of an idle core), by wall time on a GPU; --clock says otherwise.
`gflop` counts multiplications and additions of matrix products, convolutions and attention. `peak_mb` is the largest
memory during the row: of the process, weights included, or on a GPU what torch had allocated.
"""

import argparse
import contextlib
import json
import resource
import statistics
import sys
import time
from pathlib import Path


SENTENCE = "push the sliding door to the left side"


class Meter:
    """Times calls and watches memory on one device."""

    def __init__(self, device: str, clock: str) -> None:
        self.gpu, self.clock = device.startswith("cuda"), clock

    def start(self) -> None:
        self.times: dict[str, list[float]] = {"wall": [], "cpu": []}
        if self.gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew

    def __call__(self, step):
        import torch

        if self.gpu:
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        result = step()
        if self.gpu:
            torch.cuda.synchronize()
        self.times["wall"].append(1000 * (time.perf_counter() - wall))
        self.times["cpu"].append(1000 * (time.process_time() - cpu))
        return result

    def ms(self, clock: str | None = None) -> float:
        return statistics.median(self.times[clock or self.clock])

    def peak_mb(self) -> float:
        if self.gpu:
            import torch

            return torch.cuda.max_memory_allocated() / 2**20
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
        except (OSError, StopIteration):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def gflop(model, step) -> float:
    """10^9 multiplications and additions of one call."""
    from torch.utils.flop_counter import FlopCounterMode

    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the counter does not know the fused attention of a CPU
    with FlopCounterMode(display=False) as counter:
        step()
    model.set_attn_implementation(usual)
    return counter.get_total_flops() / 1e9


def make_policy(size: str, device: str, seed: int = 0):
    """(model, processor): the official network, or a small one of the same kind, with random weights."""
    import torch

    from hf_vpdd.modeling.gr1 import GR1Config, GR1ForRobotPolicy
    from hf_vpdd.modeling.gr1.processing_gr1 import GR1Processor
    from hf_vpdd.modeling.vpdd.instruction_tokenizer import train_tokenizer

    torch.manual_seed(seed)
    official = {"num_views": 2, "state_dim": 7, "binary_gripper_state": True, "action_dim": 7, "chunk_size": 1}
    config = GR1Config() if size == "official" else GR1Config.tiny(**official, binary_gripper_action=True)
    model = GR1ForRobotPolicy(config).to(device).eval().requires_grad_(False)
    processor = GR1Processor(
        tokenizer=train_tokenizer([SENTENCE], 300), image_size=config.pixel_size,
        history_frames=config.history_frames,
        max_instruction_length=min(77, config.text_config.max_position_embeddings),
    )  # fmt: skip
    return model, processor


class Episode:
    """Frames and states as CALVIN's: static 200, wrist 84 pixels, endless and random."""

    def __init__(self, processor, device: str) -> None:
        import numpy as np

        self.processor, self.device, self.rng, self.seen = processor, device, np.random.default_rng(0), []

    def step(self) -> dict:
        state = self.rng.normal(size=7).astype("float32")
        state[6] = self.rng.choice([-1, 1])
        sizes = zip(self.processor.cameras, (200, 84))
        images = {camera: self.rng.integers(0, 256, (side, side, 3), "uint8") for camera, side in sizes}
        self.seen = [*self.seen, {"images": images, "state": state, "instruction": SENTENCE}]
        self.seen = self.seen[-self.processor.history_frames :]
        return self.seen[-1]

    def window(self, dtype) -> dict:
        """The newest frames as the plain network's inputs, preprocessed."""
        import numpy as np

        inputs = self.processor(
            images={c: np.stack([obs["images"][c] for obs in self.seen]) for c in self.processor.cameras},
            instruction=SENTENCE,
            state=np.stack([obs["state"] for obs in self.seen]),
        )
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in inputs.items()}


def measure(model, processor, device: str, meter_of, plain_repeats: int, repeats: int, name: str, compiled=False):
    """Rows of one precision: the plain window, the controller while its window fills, and when it is full."""
    import torch

    from hf_vpdd.policy import RobotPolicy

    policy, episode = RobotPolicy(model, processor), Episode(processor, device)
    plain, filling, full = meter_of(), meter_of(), meter_of()
    actions, sample = [], model.sample_actions

    def sample_actions(**inputs):
        output = sample(**inputs)
        actions.append(output.actions[0, 0].float())
        return output

    model.sample_actions = sample_actions
    rows, difference = [], 0.0
    with torch.inference_mode():
        filling.start()
        for _ in range(processor.history_frames):
            obs = episode.step()
            filling(lambda: policy.select_action(obs))
        steady = {"peak_mb": filling.peak_mb(), "gflop": None}
        rows.append({"name": f"controller, window filling{name}", **_numbers(filling), **steady})
        work = {}
        if compiled:
            compile_parts(model)
        for _ in range(2 if compiled else 1):  # warms up, counts, and measures memory one side at a time
            obs = episode.step()
            full.start()
            full(lambda: policy.select_action(obs))
            work["full"] = {"peak_mb": full.peak_mb()}
        if plain_repeats:
            window = episode.window(model.dtype)
            plain.start()
            difference = abs_difference(plain(lambda: plain_action(model, window)), actions[-1])
            work["plain"] = {"peak_mb": plain.peak_mb()}
        if not compiled:  # the counter cannot look into compiled code; the work is the same
            obs = episode.step()
            work["full"]["gflop"] = gflop(model, lambda: policy.select_action(obs))
            if plain_repeats:
                window = episode.window(model.dtype)
                work["plain"]["gflop"] = gflop(model, lambda: plain_action(model, window))
        full.start()
        plain.start()
        for turn in range(repeats):
            obs = episode.step()
            full(lambda: policy.select_action(obs))
            if turn < plain_repeats:
                window = episode.window(model.dtype)
                difference = max(difference, abs_difference(plain(lambda: plain_action(model, window)), actions[-1]))
    del model.sample_actions
    if plain_repeats:
        rows.insert(0, {"name": f"plain window{name}", **_numbers(plain), **work["plain"]})
    rows.append({"name": f"controller, window full{name}", **_numbers(full), **work["full"], "difference": difference})
    if not plain_repeats:
        rows[-1]["difference"] = None
    return rows


def plain_action(model, window):
    """The newest action of a window, by the whole network."""
    import torch

    output = model(**window)
    arm, logit = output.arm_actions[0, -1, 0], output.gripper_logits[0, -1]
    return torch.cat((arm, logit.sigmoid()))


def abs_difference(ours, theirs) -> float:
    return (ours - theirs).abs().max().item()


def compile_parts(model) -> None:
    """torch.compile of what a step spends its time in."""
    core = model.model
    for part in (core.image_model, core.resampler, *core.trunk.h[:-1]):
        part.compile()


def _numbers(meter: Meter) -> dict:
    return {"ms": meter.ms("wall"), "cpu_ms": meter.ms("cpu"), "compared": meter.ms()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats: under a minute on 2 cores")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--size", choices=("official", "tiny"), default="official", help="of the network")
    parser.add_argument("--repeats", type=int, help="measured steps of the controller")
    parser.add_argument("--plain-repeats", type=int, help="measured plain windows")
    parser.add_argument("--compile", action="store_true", help="further rows: torch.compile of towers and trunk")
    parser.add_argument("--bf16", action="store_true", help="further rows: weights in bfloat16")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--clock", choices=("wall", "cpu"), help="what ratios are of (default: see above)")
    args = parser.parse_args(argv)

    import torch

    torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):  # in float32 proper, or the difference is TF32's
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    clock = args.clock or ("wall" if device.startswith("cuda") else "cpu")
    repeats = args.repeats or (5 if args.quick else 15)
    plain_repeats = args.plain_repeats or (1 if args.quick else 3)
    model, processor = make_policy(args.size, device)

    def meter() -> Meter:
        return Meter(device, clock)

    rows = measure(model, processor, device, meter, plain_repeats, repeats, "")
    baseline = rows[0]["compared"]
    if args.bf16:
        half = make_policy(args.size, device)[0].to(torch.bfloat16)
        rows += measure(half, processor, device, meter, plain_repeats, repeats, ", bf16")
        del half
    if args.compile:
        rows += measure(model, processor, device, meter, 0, repeats, ", compiled", compiled=True)[1:]
    for row in rows:
        row["ratio"] = baseline / row.pop("compared")
    if args.json:
        for row in rows:
            rounded = {key: round(value, 9) if isinstance(value, float) else value for key, value in row.items()}
            print(json.dumps(rounded))
        return 0
    from hf_vpdd.evaluation.tables import format_table

    def shown(value, text):
        return "" if value is None else format(value, text)

    table = [
        [row["name"], f"{row['ms']:.0f}", f"{row['cpu_ms']:.0f}", f"{row['ratio']:.2f}",
         shown(row.get("gflop"), ".1f"), f"{row['peak_mb']:.0f}", shown(row.get("difference"), ".1e")]
        for row in rows
    ]  # fmt: skip
    print(format_table(("", "ms", "cpu ms", "ratio", "GFLOP", "peak MB", "difference"), table))
    return 0


if __name__ == "__main__":
    # Run as a file, the package may not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    sys.exit(main())
