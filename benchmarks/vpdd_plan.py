"""What a plan costs at official size with each sampler, beside the plain 100-step loop of the released code.

    python benchmarks/vpdd_plan.py                          # all samplers, whole plans: minutes
    python benchmarks/vpdd_plan.py --quick                  # long loops extrapolated from a few of their steps
    python benchmarks/vpdd_plan.py --quick --json           # one object a line: name, ms, ratio, peak_mb, gflop, bar
    python benchmarks/vpdd_plan.py --sampler two-phase --compile --bf16
    python benchmarks/vpdd_plan.py --device cuda

The official Meta-World network (9.2 M trunk, 6.3 M action head, 592 tokens; random weights, eval mode) plans for one
robot: four 96x96 frames and an instruction vector in, one clip of 576 codes and 16 action bins out. "plain" is
`plain_policy.py`: the released algorithm at its own cost, with nothing cached. Both sides hold the same weights and
are checked to give the same logits before any clock starts.

`ms` is the median time of a plan, contestants taking turns; `ratio` the speed beside the plain loop in the same run.
`gflop` is counted by torch (`FlopCounterMode`: matrix products, convolutions, attention). `peak_mb` is what a plan
adds at its peak to the weights and inputs: on a CPU the operating system's count in a process of its own, on a GPU the
allocator's. `bar` is the ratio that this project asks of the row. Every step of a loop costs the same; with --quick a
loop of 100 or 25 steps is timed over few of them and extrapolated, t(n) = t(1) + (n - 1) (t(k) - t(1)) / (k - 1).
"""

import argparse
import json
import statistics
import sys
from pathlib import Path


LONG, FEW = 25, 3  # with --quick, loops of so many steps are timed over so few
PLAIN = "plain loop, 100 steps"
SAMPLERS = {  # name -> (arguments of sample_actions, bar)
    "ancestral, 100 steps": ({"num_inference_steps": 100}, 1.3),
    "ancestral, 25 steps": ({"num_inference_steps": 25}, None),
    "ancestral, 8 steps": ({"num_inference_steps": 8}, 14),
    "confidence, 8 steps": ({"num_inference_steps": 8, "sampler": "confidence"}, 14),
    "halton, 8 steps": ({"num_inference_steps": 8, "sampler": "halton"}, 14),
    "entropy-bound, up to 8 steps": ({"num_inference_steps": 8, "sampler": "entropy_bound"}, 14),
    "two-phase, 4 video + 4 action steps": ({"num_inference_steps": 4, "action_steps": 4}, None),
    "two-phase, 2 video + 4 action steps": ({"num_inference_steps": 2, "action_steps": 4}, 40),
}


class Contest:
    """The model, its plain twin, and one observation."""

    def __init__(self, args) -> None:
        import torch
        from plain_policy import PlainPolicy
        from transformers import CLIPTextConfig

        from hf_vpdd.modeling.vpdd import VPDDConfig, VPDDForRobotPolicy

        torch.manual_seed(0)
        # the instruction comes as a vector; the real tower would be 38 M idle parameters
        tower = CLIPTextConfig(
            vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            max_position_embeddings=4, projection_dim=1024, pad_token_id=0, bos_token_id=2, eos_token_id=3,
        )  # fmt: skip
        model = VPDDForRobotPolicy(VPDDConfig.metaworld(text_config=tower)).eval()
        torch.nn.init.normal_(model.model.vqvae.codebook.embeddings)
        self.model = model.to(args.device).requires_grad_(False)
        self.plain, self.plain_sdpa = PlainPolicy(self.model), PlainPolicy(self.model, "sdpa")
        generator = torch.Generator().manual_seed(1)
        size, frames = model.config.pixel_size, model.config.history_frames
        self.pixels = (torch.rand(1, 1, frames, 3, size, size, generator=generator) - 0.5).to(args.device)
        self.prompt = torch.randn(1, 1024, generator=generator).to(args.device)
        self.args = args

    def check(self) -> None:
        """Both sides are the same networks, or there is nothing to compare."""
        import torch

        model, config = self.model, self.model.config
        t = torch.tensor([60], device=self.args.device)
        classes, tokens, generator = self.plain.dense.classes, self.plain.tokens, torch.Generator().manual_seed(2)
        codes, bins = (
            torch.randint(n + 1, (1, length), generator=generator).to(t.device) for n, length in zip(classes, tokens)
        )
        joint = torch.cat([torch.where(codes == classes[0], self.plain.mask, codes), bins + classes[0]], 1)
        with torch.no_grad():
            history = model.model.encode_video(self.pixels)
            context = model.model.encode_context(self.prompt, history, None)
            video = model.model.denoise(codes[:, None], t, context)
            head = model.head_context(context, self.prompt, None, None, 1)
            actions = model.action_head(
                bins.view(1, config.chunk_size, config.action_dim), t, video.hidden_states, head
            )
            for plain in (self.plain, self.plain_sdpa):
                theirs = plain.evaluate(joint, t, history.flatten(1), self.prompt)
                for a, b in zip((video.logits[:, 0], actions.flatten(1, 2)), theirs):
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))

    def runners(self) -> dict:
        """name -> (function of the number of steps, number of steps of a whole plan, bar)."""
        args, wanted = self.args, self.args.sampler
        table = {PLAIN: (lambda n: self.plain.plan(self.pixels, self.prompt, n), 100, None)}
        if not wanted:
            name = "plain loop with fused attention, 100 steps"
            table[name] = (lambda n: self.plain_sdpa.plan(self.pixels, self.prompt, n), 100, None)
        chosen = {name: x for name, x in SAMPLERS.items() if not wanted or any(w in name for w in wanted)}
        variants = [("", self.model)]
        if args.compile:
            variants.append((", compiled", self.compiled(self.model)))
        if args.bf16:
            half = self.half()
            variants.append((", bf16", half))
            if args.compile:
                variants.append((", bf16, compiled", self.compiled(half)))
        for suffix, model in variants:
            for name, (options, bar) in chosen.items():
                if "100" in name and suffix and args.quick:
                    continue
                function = self.planner(model, options)
                table[name + suffix] = (function, options["num_inference_steps"], None if suffix else bar)
        return table

    def planner(self, model, options):
        dtype = model.model.trunk.latents.dtype
        pixels, prompt = self.pixels.to(dtype), self.prompt.to(dtype)

        def plan(steps: int):
            more = {**options, "num_inference_steps": steps}
            return model.sample_actions(pixel_values=pixels, prompt_embeds=prompt, temperature=1.0, **more)

        return plan

    def half(self):
        import copy

        import torch

        return copy.deepcopy(self.model).to(torch.bfloat16)

    def compiled(self, model):
        """A twin with the same weights whose networks run through `torch.compile`."""
        import copy

        import torch

        shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
        model = copy.deepcopy(model, shared)
        for owner, name in (
            (model.model.trunk, "forward"),
            (model.action_head, "encode_forecast"),
            (model.action_head, "decode"),
            (model.model.vqvae, "encode"),
        ):
            setattr(owner, name, torch.compile(getattr(owner, name), fullgraph=True, dynamic=False))
        return model


def times(runners: dict, args) -> dict[str, float]:
    """name -> milliseconds of a whole plan: medians over turns. Everything has run before."""
    from reporting import once

    repeats = args.repeats or (1 if args.quick else 3)
    taken: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(repeats):
        for name, (function, steps, _) in runners.items():
            if args.quick and steps >= LONG:
                one, few = once(lambda: function(1), args), once(lambda: function(FEW), args)
                taken[name].append(one + (steps - 1) * (few - one) / (FEW - 1))
            else:
                taken[name].append(once(lambda: function(steps), args))
    return {name: statistics.median(x) for name, x in taken.items()}


def gflop(function, steps: int) -> float:
    """Counted over one and two steps: all others cost the same. An adaptive sampler's is an upper bound."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    # torch has a formula for this one's relatives, but not for the one that a CPU runs
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas = {attention: lambda query, key, value, *rest, **options: sdpa_flop_count(query, key, value)}
    counted = []
    for n in (1, 2):
        with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            function(n)
        counted.append(counter.get_total_flops() / 1e9)
    return counted[0] + (steps - 1) * (counted[1] - counted[0])


def work(runners: dict) -> dict[str, float | None]:
    """name -> GFLOP of a whole plan; None for compiled networks, which run once here and so get compiled."""
    counted = {}
    for name, (function, steps, _) in runners.items():
        if "compiled" in name:
            function(2)
        counted[name] = None if "compiled" in name else gflop(function, steps)
    return counted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="extrapolate long loops; one turn each")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--sampler", nargs="+", metavar="WORD", help="only rows with such a word in their name")
    parser.add_argument("--repeats", type=int, help="turns of each contestant")
    parser.add_argument("--compile", action="store_true", help="further rows with torch.compile(fullgraph=True)")
    parser.add_argument("--bf16", action="store_true", help="further rows in bfloat16 (logits stay float32)")
    parser.add_argument("--no-memory", action="store_true", help="leave peak_mb out, which takes a second process")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    from reporting import add_clock, added_mb, in_child, print_rows

    add_clock(parser)
    args = parser.parse_args(argv)

    contest = Contest(args)
    runners = contest.runners()
    contest.check()
    if args.memory:  # in a process of its own, the dearest last
        for name in runners:
            if "compiled" in name:  # the compiler's memory is not the plan's
                runners[name][0](2)
        print(json.dumps({name: added_mb(lambda: runners[name][0](2), args.device) for name in reversed(runners)}))
        return 0
    gflops, took, memory = work(runners), times(runners, args), dict.fromkeys(runners)
    if not args.no_memory:
        words = sys.argv[1:] if argv is None else argv
        memory = in_child([*(word for word in words if word != "--json"), "--memory"])
    rows = [
        {
            "name": name,
            "ms": took[name],
            "ratio": took[PLAIN] / took[name],
            "peak_mb": memory[name],
            "gflop": gflops[name],
            "bar": bar,
        }
        for name, (_, _, bar) in runners.items()
    ]
    notes = []
    if args.quick:
        notes.append(f"Loops of {LONG} steps and more: extrapolated from {FEW} of their steps.")
    if args.clock == "cpu":
        notes.append("ms: processor time of the process, not wall time.")
    print_rows(rows, args.json, tuple(notes))
    return 0


if __name__ == "__main__":
    # Run as a file, the package may not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    sys.exit(main())
