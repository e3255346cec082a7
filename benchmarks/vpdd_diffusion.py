"""One training loss and one reverse step at official size, in closed form and in the dense form of the official code.

    python benchmarks/vpdd_diffusion.py                     # batch of 8; about a minute
    python benchmarks/vpdd_diffusion.py --quick             # batch of 2
    python benchmarks/vpdd_diffusion.py --quick --json      # one object a line: name, ms, ratio, peak_mb
    python benchmarks/vpdd_diffusion.py --device cuda

592 tokens: 576 of 2048 video codes and 16 of 48 action bins. "dense" is `dense_diffusion.py`: log one-hots and
log-probabilities of shape (B, 2097, 592), a float64 softmax, sorts for the truncation and Gumbel noise on every class.
Both sides get the same logits; before any clock starts they are checked to give the same loss, the same gradient and
the same distribution of the next tokens.

A training loss is forward and backward, from given logits to their gradient. `ms` is the median of calls taken in
turns. `peak_mb` is the memory one call adds at its peak to what was there before it; the logits were there, their
gradient was not. On a CPU each side runs in a process of its own, and the peak is the operating system's
(VmHWM); on a GPU it is the allocator's. `ratio` is the speed beside the dense form; in the last row it is the
dense form's memory beside ours.
"""

import argparse
import json
import sys
from pathlib import Path


CLASSES, TOKENS = (2048, 48), (576, 16)
SIDES = ("dense", "closed")


class Case:
    """One batch of noisy tokens and the logits a network might give for it."""

    def __init__(self, batch: int, device: str) -> None:
        import torch
        from dense_diffusion import DenseDiffusion

        from hf_vpdd.schedulers import MaskAndReplaceScheduler

        generator = torch.Generator().manual_seed(0)
        self.scheduler = MaskAndReplaceScheduler()
        self.dense = DenseDiffusion(self.scheduler, CLASSES, TOKENS, device)
        self.t = torch.linspace(0, 99, batch + 1)[1:].long()  # all noise levels alike, the last included
        self.clean, self.noisy, self.logits = [], [], []
        for classes, tokens in zip(CLASSES, TOKENS):
            clean = torch.randint(classes, (batch, tokens), generator=generator)
            noisy = self.scheduler.add_noise(clean, self.t, classes, generator)
            logits = torch.randn(batch, tokens, classes, generator=generator).mul_(2)
            logits.scatter_add_(-1, clean.unsqueeze(-1), torch.full((batch, tokens, 1), 6.0))  # a trained one's
            self.clean.append(clean.to(device))
            self.noisy.append(noisy.to(device))
            self.logits.append(logits.to(device).requires_grad_())
        self.t = self.t.to(device)
        self.probs = torch.full((batch,), 0.01, dtype=torch.float64, device=device)
        self.joint_clean = torch.cat([self.clean[0], self.clean[1] + CLASSES[0]], 1)
        ids = [
            torch.where(x == n, sum(CLASSES), x + offset) for x, n, offset in zip(self.noisy, CLASSES, (0, CLASSES[0]))
        ]
        self.joint_noisy = torch.cat(ids, 1)

    def loss(self, side: str):
        if side == "dense":
            loss = self.dense.loss(*self.logits, self.joint_clean, self.joint_noisy, self.t, self.probs)
        else:
            parts = [
                self.scheduler.loss(logits, clean, noisy, self.t, classes, self.probs).loss * tokens
                for logits, clean, noisy, classes, tokens in zip(self.logits, self.clean, self.noisy, CLASSES, TOKENS)
            ]
            loss = sum(parts) / sum(TOKENS)
        for logits in self.logits:
            logits.grad = None
        loss.backward()
        return loss.detach()

    def step(self, side: str):
        import torch

        with torch.no_grad():
            if side == "dense":
                return self.dense.step(*self.logits, self.joint_noisy, self.t)
            return [
                self.scheduler.step(logits, self.t, noisy, classes, prev_timestep=self.t - 1).prev_sample
                for logits, noisy, classes in zip(self.logits, self.noisy, CLASSES)
            ]

    def check(self) -> None:
        """Both sides are the same diffusion, or there is nothing to compare."""
        import torch

        losses, gradients = [], []
        for side in SIDES:
            losses.append(self.loss(side))
            gradients.append(torch.cat([logits.grad.flatten() for logits in self.logits]))
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
        error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
        assert error < 1e-3, f"the gradients differ by {error:.1e}"
        with torch.no_grad():
            theirs = torch.softmax(self.dense.log_step(*self.logits, self.joint_noisy, self.t).double(), 1)
            own = [list(range(CLASSES[0])) + [-1], list(range(CLASSES[0], sum(CLASSES) + 1))]
            for i, (places, ids) in enumerate(zip((slice(None, TOKENS[0]), slice(TOKENS[0], None)), own)):
                start = self.scheduler.predict_start(self.logits[i]).log()
                ours = self.scheduler.posterior(self.noisy[i], self.t, CLASSES[i], logits=start).double().exp()
                distance = (ours - theirs[:, ids, places].transpose(1, 2)).abs().sum(-1).max() / 2
                assert distance < 2e-4, f"the distributions of a step differ by {distance:.1e} in total variation"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a batch of 2 and fewer repeats")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--batch", type=int, help="of the training loss; 8, or 2 with --quick")
    parser.add_argument("--repeats", type=int, help="turns of each side")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    from reporting import add_clock, added_mb, in_child, print_rows, take_turns

    add_clock(parser)
    args = parser.parse_args(argv)
    batch = args.batch or (2 if args.quick else 8)

    sizes = {"step": 1, "loss": batch}
    if args.memory_of:  # in a process of its own, the smaller peak first
        measured = {}
        for what, size in sizes.items():
            case = Case(size, args.device)
            getattr(Case(1, args.device), what)(args.memory_of)  # libraries and tables are not the call's memory
            measured[what] = added_mb(lambda: getattr(case, what)(args.memory_of), args.device)
        print(json.dumps(measured))
        return 0

    repeats = args.repeats or (3 if args.quick else 9)
    child = ["--batch", str(batch), "--device", args.device, "--memory-of"]
    memory = {side: in_child([*child, side]) for side in SIDES}
    rows = []
    for what, label in (("loss", f"training loss, batch of {batch}"), ("step", "reverse step, batch of 1")):
        case = Case(sizes[what], args.device)
        case.check()
        times = take_turns({side: lambda side=side: getattr(case, what)(side) for side in SIDES}, repeats, args)
        for side in SIDES:
            name = f"{label}, {'dense' if side == 'dense' else 'closed form'}"
            ratio = times["dense"] / times[side]
            rows.append({"name": name, "ms": times[side], "ratio": ratio, "peak_mb": memory[side][what]})
    ours, theirs = (memory[side]["loss"] for side in ("closed", "dense"))
    rows.append(
        {"name": "training loss, dense memory beside ours", "ms": None, "ratio": theirs / ours, "peak_mb": ours}
    )
    print_rows(rows, args.json)
    return 0


if __name__ == "__main__":
    # Run as a file, the package may not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    sys.exit(main())
