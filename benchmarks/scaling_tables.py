"""The arithmetic of benchmarks/scaling.py: what follows for a cluster from what was measured and assumed."""

import argparse


def derive(rows, facts: dict, args: argparse.Namespace) -> None:
    """Add the assumed and the derived rows."""
    assume(rows, args)
    names = list(facts["sizes"])
    for name in names:
        memory(rows, name, facts["sizes"][name], facts, args)
    speed(rows, names[-1], facts["sizes"][names[-1]], args)
    checkpoint(rows, names[-1], facts["sizes"][names[-1]], facts, args)
    video(rows, names[-1], facts["sizes"][names[-1]], facts, args)


def assume(rows, args) -> None:
    for name, value, unit, why in (
        ("GPUs", args.gpus, "", "--gpus"),
        ("memory of a GPU", args.gpu_gb, "GB", "--gpu_gb"),
        ("peak of a GPU, bf16", args.peak_tflops, "TFLOP/s", "--peak_tflops, data sheet"),
        ("share of the peak reached", args.mfu, "", "--mfu; large dense products reach 0.3 to 0.5"),
        ("network of a GPU", args.network_gbytes, "GB/s", "--network_gbytes, data sheet"),
        ("shared disk, one writer", args.disk_gbytes, "GB/s", "--disk_gbytes"),
        ("video", args.hours, "h", "--hours"),
        ("its files", args.video_mbit, "Mbit/s", "--video_mbit"),
    ):
        rows.add(name, value, unit, "assumed", why)


def memory(rows, name: str, size: dict, facts: dict, args) -> None:
    """Of one GPU: what a parameter and a sample take, whole and cut."""
    whole = facts["state_bytes"] * size["parameters"]
    # Autocast keeps a bfloat16 copy of each weight from forward to backward.
    rows.add(
        f"{name}: whole on each GPU", (whole + 2 * size["parameters"]) / 1e9, "GB", "derived", "state + bf16 casts"
    )
    # Two blocks are there at once, since the next is gathered while one runs; their gradients are float32.
    gathered = 2 * size["block"] * (2 + 4)
    cut = whole / args.gpus + gathered
    rows.add(f"{name}: cut over {args.gpus} GPUs", cut / 1e9, "GB", "derived", "state / GPUs + 2 blocks gathered")
    room = args.gpu_gb * 1e9 * 0.9 - cut
    for kind, how in (("held", ""), ("held_recomputed", ", recomputed")):
        rows.add(
            f"{name}: samples that fit a GPU{how}", room / size[kind], "", "derived", "90 % of memory - cut state"
        )


def speed(rows, name: str, size: dict, args) -> None:
    rate = args.peak_tflops * 1e12 * args.mfu
    per_gpu = rows.add(f"{name}: speed of a GPU", rate / size["flops"], "samples/s", "derived", "peak x share / FLOP")
    rows.add(f"{name}: speed of {args.gpus} GPUs", per_gpu * args.gpus, "samples/s", "derived", "x GPUs")
    share = (args.gpus - 1) / args.gpus
    seconds = {
        # bfloat16 weights gathered in forward and backward, float32 gradients scattered
        "FSDP2 (fsdp2.yaml)": (2 + 2 + 4) * share,
        # gathered once, kept
        "FSDP2 kept (fsdp2_zero2.yaml)": (2 + 4) * share,
        # float32 gradients, ring all-reduce
        "DDP": 2 * 4 * share,
    }
    for how, each in seconds.items():
        taken = each * size["parameters"] / (args.network_gbytes * 1e9)
        rows.add(f"{name}: network of a step, {how}", 1000 * taken, "ms", "derived", "bytes a parameter / network")
        if how.startswith("FSDP2 ("):
            rows.add(f"{name}: samples a GPU and step that hide it", taken * per_gpu, "", "derived", "network x speed")


def checkpoint(rows, name: str, size: dict, facts: dict, args) -> None:
    total = facts["checkpoint_bytes"] * size["parameters"]
    rows.add(f"{name}: state.pt", total / 1e9, "GB", "derived", "bytes a parameter, one file by the main process")
    here = rows.add(f"{name}: saving at this machine's speed", total / facts["write_mb"] / 1e6, "s", "derived", "MB/s")
    there = rows.add(f"{name}: writing at the assumed disk's", total / args.disk_gbytes / 1e9, "s", "derived", "GB/s")
    for seconds, where in ((here, "here"), (there, "there")):
        rows.add(
            f"{name}: least pause between saves, 1 % lost, {where}", 100 * seconds / 60, "min", "derived", "x 100"
        )


def video(rows, name: str, size: dict, facts: dict, args) -> None:
    frames = args.hours * 3600 * args.fps
    hour = 3600 * args.fps
    rows.add("files", args.hours * 3600 * args.video_mbit / 8e6, "TB", "derived", "hours x Mbit/s")
    rows.add("token cache of an hour", hour * facts["tokens"] * 2 / 1e6, "MB", "derived", "fps x tokens x 2 B")
    rows.add("token cache", frames * facts["tokens"] * 2 / 1e12, "TB", "derived", "x hours")
    rows.add("decoded frames (FrameStore), 96 px", frames * 96 * 96 * 3 / 1e12, "TB", "derived", "27,648 B a frame")
    cores = args.gpus * args.cores_a_gpu
    seconds = args.hours * 3600 * args.source_fps / facts["decode"]
    rows.add("decoding all of it once", seconds / 3600, "core hours", "derived", "source frames / frames/s")
    rows.add(f"decoding on {cores} cores", seconds / 3600 / cores, "h", "derived", "/ cores")
    rate = args.peak_tflops * 1e12 * args.mfu
    rows.add("tokenizing all of it", frames * facts["tokenize_flops"] / rate / 3600, "GPU hours", "derived", "FLOP")
    everywhere = rate * args.gpus / size["flops"]
    rows.add(
        f"{name}: one pass over all windows", frames / everywhere / 86400, "days", "derived", "frames / samples/s"
    )
    needed = everywhere / facts["windows"]
    rows.add(f"{name}: cores to feed it from files", needed, "cores", "derived", "samples/s / windows/s")
    rows[-1]["ratio"] = needed / cores  # to the cores there are
    read = everywhere * 2 * facts["tokens"] * 2 / 1e6
    rows.add(f"{name}: reading to feed it from the token cache", read, "MB/s", "derived", "2 frames x tokens x 2 B")
    rows.add(
        "order of all windows, each process", frames * facts["order_bytes"] / 1e9, "GB", "derived", "16 B a window"
    )
