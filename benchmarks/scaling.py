"""What training costs in memory, arithmetic, disk and network, from this machine's numbers up to 1 B parameters on 64
GPUs and 1 M hours of video.

    python benchmarks/scaling.py                    # measure, then the tables of docs/scaling.md
    python benchmarks/scaling.py --quick            # smaller sizes, under a minute
    python benchmarks/scaling.py --json             # one object a line
    python benchmarks/scaling.py --gpus 8 --peak_tflops 312 --gpu_gb 80     # other assumptions

Every row says what it is: `measured` here, `counted` (torch run on tensors without content: the same operations at
any size), `assumed` (an argument of this script), or `derived` from rows before it by the formula in `from`. The
network is VPDD's video denoiser (fused trunk, 144 codes of a 96-pixel picture); a sample is one window: now and the
future.

`ms` is time of one step or call where there is one, `ratio` what the row's name says it is compared with, `peak_mb`
memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parent))
from reporting import print_rows
from scaling_tables import derive


SIZES = {"4 M": (256, 4), "27 M": (512, 8), "1 B": (2048, 20)}  # hidden size, layers
TOY = {"toy": (64, 1), "toy 2": (128, 2)}


def make_model(hidden: int, layers: int):
    from hf_vpdd.modeling.vpdd import VPDDConfig, VPDDForVideoPrediction

    text = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 1, "projection_dim": 512, "bos_token_id": 0, "eos_token_id": 1}
    model = VPDDForVideoPrediction(
        VPDDConfig.tiny(
            hidden_size=hidden, trunk_layers=layers, trunk_heads=hidden // 64, trunk_head_dim=64,
            trunk_ff_size=4 * hidden, text_config=text,
        )
    )  # fmt: skip
    return model.train()


def loss_of(model, samples: int):
    """The cross entropy of one batch, in bfloat16 where autocast uses it."""
    import torch

    core, config = model.model, model.config
    codes = torch.randint(config.vqvae_config.codebook_size, (2, samples, 1, *config.latent_shape))
    pixels = torch.rand(samples, 1, config.history_frames, 3, config.pixel_size, config.pixel_size)
    with torch.autocast("cpu", torch.bfloat16):
        context = core.encode_context(torch.randn(samples, config.prompt_size), codes[0], pixels)
        logits = core.denoise(codes[1].flatten(2), torch.zeros(samples, dtype=torch.long), context).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, -2), codes[1].flatten())


def one_step(size: tuple[int, int], samples: int, recompute: bool, fake: bool) -> dict:
    """Parameters, FLOPs of forward and backward, and bytes that the forward keeps for the backward; of the weights
    only their casts."""
    import contextlib

    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    with FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext():
        model = make_model(*size)
        model.set_attn_implementation("sdpa")
        if recompute:
            model.activation_checkpointing_enable()
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        kept: dict[int, tuple] = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = (storage.nbytes(), storage)
            return tensor

        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of(model, samples)
            held = sum(size for size, _ in kept.values())
            loss.backward()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    largest = max(sum(p.numel() for p in layer.parameters()) for layer in model.model.trunk.layers)
    return {"parameters": trained, "flops": counter.get_total_flops(), "held": held, "block": largest}


class Rows(list):
    def add(self, name: str, value: float, unit: str, kind: str, source: str, **more) -> float:
        row = {"name": name, "value": value, "unit": unit, "kind": kind, "from": source}
        self.append({**row, "ms": None, "ratio": None, "peak_mb": None, **more})
        return value


def measure_model(rows: Rows, sizes: dict, steps: int) -> dict:
    """Rows of bytes, operations and speed; returns what the tables go on with."""

    from hf_vpdd.training.arguments import TrainArguments
    from hf_vpdd.training.checkpoints import save_checkpoint
    from hf_vpdd.training.ema import Ema
    from hf_vpdd.training.optimizer import build_optimizer

    facts: dict = {"sizes": {}}
    *real, largest = sizes
    for name in sizes:
        fake = name == largest
        kind = "counted" if fake else "measured"
        for recompute in (False, True):
            two, four = (one_step(sizes[name], samples, recompute, fake) for samples in (2, 4))
            slope = (four["held"] - two["held"]) / 2
            how = ", recomputed" if recompute else ""
            rows.add(
                f"activations of a sample, {name}{how}", slope / 2**20, "MiB", kind, "saved_tensors_hooks, 2 and 4"
            )
            entry = facts["sizes"].setdefault(name, {"parameters": two["parameters"], "block": two["block"]})
            entry["held" if not recompute else "held_recomputed"] = slope
            if not recompute:
                entry["flops"] = two["flops"] / 2
                source = "FlopCounterMode, forward and backward"
                rule = 6 * two["parameters"] * 144
                rows.add(f"operations of a sample, {name}", entry["flops"] / 1e9, "GFLOP", kind, source)
                rows[-1]["ratio"] = entry["flops"] / rule  # to 6 x parameters x tokens
    model = make_model(*sizes[real[-1]])
    optimizer = build_optimizer(model, TrainArguments())
    ema = Ema(model.parameters(), 0.99)
    samples, times = 4, []
    for _ in range(steps + 1):
        began = time.process_time()
        loss_of(model, samples).backward()
        gradients = sum(p.grad.nbytes for p in ema.parameters if p.grad is not None)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(1)
        times.append(time.process_time() - began)
    seconds = sorted(times[1:])[len(times[1:]) // 2]
    trained = sum(p.numel() for p in ema.parameters)
    moments = sum(t.nbytes for entry in optimizer.state.values() for t in entry.values() if t.ndim)
    parts = {
        "weights": sum(p.nbytes for p in ema.parameters), "gradients": gradients, "Adam's moments": moments,
        "average (EMA)": sum(t.nbytes for t in ema.shadow),
    }  # fmt: skip
    for name, size in parts.items():
        rows.add(f"{name}, bytes a parameter", size / trained, "B", "measured", f"tensors after a step, {real[-1]}")
    facts["state_bytes"] = sum(parts.values()) / trained
    flops = facts["sizes"][real[-1]]["flops"]
    rows.add(f"training, {real[-1]}, bf16", samples / seconds, "samples/s/core", "measured", "CPU time of a step of 4")
    rows[-1]["ms"] = 1000 * seconds
    facts["core_flops"] = rows.add(
        "operations, bf16", flops * samples / seconds / 1e9, "GFLOP/s/core", "derived", "both"
    )
    state = {"model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        path = save_checkpoint(folder, 1, state, {})
        seconds = time.perf_counter() - began
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    whole = sum(p.numel() for p in model.parameters())
    facts["checkpoint_bytes"] = rows.add(
        "state.pt, bytes a parameter", size / whole, "B", "measured", "save_checkpoint"
    )
    facts["write_mb"] = rows.add(
        "checkpoint: write, hash, fsync", size / seconds / 1e6, "MB/s", "measured", "the same"
    )
    rows[-1]["ms"] = 1000 * seconds
    return facts


def measure_data(rows: Rows, seconds_of_video: int, quick: bool) -> dict:
    """Decoding, windows of a stream, tokenizing, and the order of samples, on one core."""
    import numpy as np
    import torch

    from hf_vpdd import VPDDVQVAE, VPDDVQVAEConfig
    from hf_vpdd.data import VideoStream
    from hf_vpdd.data.timed_video import TimedReader, probe_video
    from hf_vpdd.training.sampling import IndexSampler

    facts = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, seconds_of_video)
        info = probe_video(path)
        times = np.arange(0, info.seconds - 1 / 30, 1 / 30)
        began = time.process_time()
        count = sum(1 for _ in TimedReader().iterate(path, times, info))
        facts["decode"] = rows.add(
            "decoding 640x480 H.264 in order", count / (time.process_time() - began), "frames/s/core", "measured",
            f"TimedReader, {seconds_of_video} s at 30 Hz of moving noise",
        )  # fmt: skip
        windows = 4 if quick else 16
        stream = VideoStream(
            lambda: iter([{"video": str(path), "text": "x"}] * windows), fps=3, frames=2, image_size=96
        )
        began = time.process_time()
        count = sum(1 for _ in stream)
        facts["windows"] = rows.add(
            "windows of 2 frames at random places", count / (time.process_time() - began), "windows/s/core",
            "measured", "VideoStream, one window a video",
        )  # fmt: skip
    config = VPDDVQVAEConfig(
        variant="conv_2d", clip_frames=1, downsample=[1, 8, 8], codebook_size=512, codebook_dim=32, hidden_size=96,
        num_res_layers=2, image_size=96,
    )  # fmt: skip
    tokenizer, batch = VPDDVQVAE(config).eval(), 4 if quick else 32
    pixels = torch.rand(batch, 3, 1, 96, 96) - 0.5
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        tokenizer.encode(pixels)
        began = time.process_time()
        tokenizer.encode(pixels)
        seconds = time.process_time() - began
    rows.add("tokenizing 96 px, conv_2d", batch / seconds, "frames/s/core", "measured", f"encode, batch {batch}, bf16")
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokenizer.encode(pixels[:1])
    facts["tokenize_flops"] = counter.get_total_flops()
    rows.add("operations of tokenizing a frame", facts["tokenize_flops"] / 1e9, "GFLOP", "measured", "FlopCounterMode")
    tokens = int(np.prod(config.latent_shape))
    facts["tokens"] = rows.add("tokens a frame, 96 px, conv_2d", tokens, "tokens", "counted", "latent_shape")
    paper = int(np.prod(VPDDVQVAEConfig().latent_shape))
    rows.add("tokens a frame, paper's axial_3d", paper, "tokens", "counted", "latent_shape: a clip ends at each frame")
    number = 200_000 if quick else 5_000_000
    began = time.process_time()
    IndexSampler(number, 4, 0).batch(0)
    seconds = time.process_time() - began
    rows.add("order of samples", 1e9 * seconds / number, "s for 1e9", "measured", f"IndexSampler, {number} samples")
    facts["order_bytes"] = rows.add(
        "order of samples, bytes a sample", 16, "B", "counted", "two permutations of int64"
    )
    return facts


def write_video(path: Path, seconds: int) -> None:
    """Coloured noise that drifts, 640x480 at 30 Hz: harder to compress than most videos."""
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (60, 100, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "23", "preset": "fast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for number in range(30 * seconds):
            picture = np.ascontiguousarray(
                coarse[number % 120 : number % 120 + 480, number % 300 : number % 300 + 640]
            )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="smaller networks and fewer repeats; for tests and a look"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    group = parser.add_argument_group("assumptions about a cluster")
    group.add_argument("--gpus", type=int, default=64, help="number of GPUs")
    group.add_argument("--gpu_gb", type=float, default=80, help="memory of one, GB")
    group.add_argument("--peak_tflops", type=float, default=989, help="bfloat16 of one, dense: the H100's data sheet")
    group.add_argument("--mfu", type=float, default=0.4, help="share of it that training reaches")
    group.add_argument("--network_gbytes", type=float, default=50, help="GB/s of one GPU to the others: 400 Gbit/s")
    group.add_argument("--disk_gbytes", type=float, default=1, help="GB/s one process writes to the shared disk")
    group.add_argument("--cores_a_gpu", type=int, default=12, help="CPU cores beside each GPU")
    group = parser.add_argument_group("assumptions about the video")
    group.add_argument("--hours", type=float, default=1e6, help="hours of video")
    group.add_argument("--source_fps", type=float, default=30, help="frames/s of the files, all of which are decoded")
    group.add_argument("--fps", type=float, default=3, help="frames/s that are kept")
    group.add_argument("--video_mbit", type=float, default=1.5, help="Mbit/s of the files")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = TOY if args.quick else SIZES
    rows = Rows()
    facts = measure_model(rows, sizes, 1 if args.quick else 5)
    facts |= measure_data(rows, 2 if args.quick else 20, args.quick)
    derive(rows, facts, args)
    if args.json:
        print_rows([{**row, "value": float(f"{row['value']:.4g}")} for row in rows], True)
    else:
        print_rows([_plain(row) for row in rows], False)
    return 0


def _plain(row: dict) -> dict:
    """As a line of the table."""
    return {
        "": row["name"],
        "value": f"{row['value']:.4g}",
        "unit": row["unit"],
        "is": row["kind"],
        "from": row["from"],
    }


if __name__ == "__main__":
    # Run as a file, the package may not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    sys.exit(main())
