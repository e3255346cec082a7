"""What one optimisation step of the paper-size model costs, with and without recomputed activations, in fp32 and bf16.

    python benchmarks/vpdd_train_step.py                     # pre-training, fine-tuning, tokenizer
    python benchmarks/vpdd_train_step.py --quick             # pre-training alone, one sequence a step
    python benchmarks/vpdd_train_step.py --quick --json      # one object a line

A step is what training does between two looks at the data: draw noise levels by importance, corrupt, forward, the
variational bound, backward, AdamW. Random weights and codes; the instruction as CLIP's features, which the released
code computes beforehand. Each row runs in a process of its own; the first step is not timed, the median of the others
is.

`ms` is time per step, `ratio` the plain step's (the first row's: fp32, nothing recomputed) divided by it: below 1 is
slower.
`peak_mb` is memory: on a GPU the largest allocation, else by how much the process grew over what imports took.
`tokens_per_s` counts video tokens that are predicted, 576 of each camera and sequence (of the tokenizer: that are
made). `mfu` is model FLOP utilisation: FLOPs of the plain forward and backward, recomputation not counted, per second,
relative to the GPU's peak for dense matrices in that precision; null on a CPU and on GPUs not listed in PEAKS.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


# TFLOP/s for dense matrices from the makers' data sheets: (float32 without TF32, bfloat16 with float32 sums)
PEAKS = {"H200": (67, 989), "H100": (67, 989), "A100": (19.5, 312), "L40S": (91.6, 362), "L4": (30.3, 121)}
PRECISIONS = ("fp32", "bf16")
STAGES = ("pretrain", "finetune_metaworld", "finetune_rlbench", "vqvae")
PAPER_BATCH = {"pretrain": 20, "finetune_metaworld": 50, "finetune_rlbench": 10, "vqvae": 32}


def build(stage: str, size: str, device):
    """(model in training mode, function: batch size -> keyword arguments of its forward, tokens of one sequence)."""
    import torch

    from hf_vpdd.modeling.vpdd import VPDDConfig
    from hf_vpdd.modeling.vpdd.modeling_vpdd import VPDDForRobotPolicy, VPDDForVideoPrediction
    from hf_vpdd.modeling.vqvae.configuration_vqvae import VPDDVQVAEConfig
    from hf_vpdd.modeling.vqvae.modeling_vqvae import VPDDVQVAE

    tokenizer = {} if size == "official" else {"image_size": 16, "codebook_size": 16, "hidden_size": 8}
    if stage == "vqvae":
        model = VPDDVQVAE(VPDDVQVAEConfig(**tokenizer)).to(device).train()
        side, frames = model.config.image_size, model.config.clip_frames
        time_, rows, columns = model.config.latent_shape
        return model, lambda n: {"pixel_values": torch.rand(n, 3, frames, side, side, device=device) - 0.5}, (
            time_ * rows * columns
        )  # fmt: skip
    stub = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    given = {"text_config": {"vocab_size": 8, "projection_dim": 1024, **stub}}
    if size == "tiny":
        given |= {"vqvae_config": tokenizer, "num_latents": 8, "trunk_layers": 1, "head_layers": 1}
    config = VPDDConfig.rlbench(**given) if stage.endswith("rlbench") else VPDDConfig.metaworld(**given)
    if stage == "pretrain":
        model = VPDDForVideoPrediction(config)
    else:
        model = VPDDForRobotPolicy(config)
        model.model.requires_grad_(False)
    model.to(device).train()
    if stage != "pretrain":
        model.model.eval()
    views = config.num_views

    def batch(n: int) -> dict:
        codes = torch.randint(config.vqvae_config.codebook_size, (2, n, views, *config.latent_shape), device=device)
        inputs = {"video_codes": codes[0], "history_codes": codes[1]}
        inputs["prompt_embeds"] = torch.randn(n, config.prompt_size, device=device)
        if stage != "pretrain":
            chunk = (n, config.chunk_size, config.action_dim)
            inputs["actions"] = torch.randint(config.num_action_bins, chunk, device=device)
        if stage.endswith("rlbench"):
            inputs["state"] = torch.randn(n, config.state_dim, device=device)
            inputs["pixel_values"] = torch.rand(n, views, 1, 3, config.pixel_size, config.pixel_size, device=device)
        return inputs

    return model, batch, views * config.video_tokens


def measure(stage: str, precision: str, recompute: bool, size: str, batch_size: int, steps: int) -> dict:
    """One row, in this process."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import hf_vpdd.training.loop  # noqa: F401 (what training imports, before memory is looked at)
    from hf_vpdd.training.arguments import TrainArguments
    from hf_vpdd.training.optimizer import build_optimizer

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = peak_mb(device)
    model, batch, tokens = build(stage, size, device)
    if device.type == "cpu" and hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")  # as the training loop does
    optimizer = build_optimizer(model, TrainArguments(learning_rate=2e-4, weight_decay=0.0))
    generator = torch.Generator(device).manual_seed(0)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**batch(batch_size), generator=generator).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    if recompute:
        model.activation_checkpointing_enable()
    step()  # warm: optimiser state, kernels
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    peak = peak_mb(device) - before
    seconds = statistics.median(times)
    flops = None
    if device.type == "cuda":
        model.activation_checkpointing_disable()
        with FlopCounterMode(display=False) as counter:
            step()
        flops = counter.get_total_flops()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    best = next((peaks for key, peaks in PEAKS.items() if key in name.split()[1:]), None)
    best = None if best is None else best[PRECISIONS.index(precision)]
    return {
        "ms": 1000 * seconds,
        "peak_mb": peak,
        "tokens_per_s": batch_size * tokens / seconds,
        "mfu": None if best is None or flops is None else flops / seconds / (best * 1e12),
        "loss_is_finite": bool(all(torch.isfinite(p).all() for p in model.parameters())),
        "device": name,
    }


def peak_mb(device) -> float:
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def row_in_own_process(*arguments) -> dict:
    command = [sys.executable, __file__, "--row", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="pre-training alone, one sequence, two timed steps")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="what to measure")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="the first is plain")
    parser.add_argument("--batch", type=int, help="sequences a step (default: 2; on a GPU the recipe's)")
    parser.add_argument("--steps", type=int, help="timed steps of each row")
    parser.add_argument("--size", choices=("official", "tiny"), default="official", help="tiny: to test this script")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.row:
        print(json.dumps(measure(*json.loads(args.row))))
        return 0
    import torch

    gpu = torch.cuda.is_available()
    steps = args.steps or (2 if args.quick else 5)
    rows = []
    for stage in args.stages or (("pretrain",) if args.quick else STAGES):
        batch = args.batch or (PAPER_BATCH[stage] if gpu else 1 if args.quick else 2)
        plain = None
        for precision in args.precisions:
            for recompute in (False, True):
                row = row_in_own_process(stage, precision, recompute, args.size, batch, steps)
                if not row.pop("loss_is_finite"):
                    raise SystemExit(f"{stage}, {precision}: weights are not finite after {steps} steps")
                plain = plain or row["ms"]
                how = f"{precision}{', recomputed' if recompute else ''}"
                rows.append({"name": f"{stage}, batch {batch}, {how}", **row, "ratio": plain / row["ms"]})
                if args.json:
                    values = {k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}
                    print(json.dumps(values), flush=True)
    if args.json:
        return 0
    from hf_vpdd.evaluation.tables import format_table

    table = [
        [row["name"], f"{row['ms']:.0f}", f"{row['ratio']:.2f}", f"{row['peak_mb']:.0f}", f"{row['tokens_per_s']:.0f}",
         None if row["mfu"] is None else f"{100 * row['mfu']:.1f}%"]
        for row in rows
    ]  # fmt: skip
    print(rows[0]["device"])
    print(format_table(("", "ms", "ratio", "peak MB", "tokens/s", "MFU"), table))
    return 0


if __name__ == "__main__":
    # Run as a file, the package may not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    sys.exit(main())
