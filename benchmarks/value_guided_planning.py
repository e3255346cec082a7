"""Does it help to imagine N futures and carry out the one that a value learned from video likes best? And the cost.

    python benchmarks/value_guided_planning.py --value-model outputs/value --value-goals data/metaworld_mt10
    python benchmarks/value_guided_planning.py --quick        # under a minute on 2 cores: that it runs, no result
    python benchmarks/value_guided_planning.py --value-model ... --candidates 4 16 --controls 4 16 --episodes 50
    python benchmarks/value_guided_planning.py --value-model ... --report --write docs/vptr.md     # what is there

Rows, all with the same policy weights, the same episodes and the same random draws of the first candidate (which is
the plan of N = 1):

* "N = 1": the plan of today.
* "N = ..., best value": `RobotPolicy(..., value_model=..., num_candidates=N)`.
* "N = ..., random": one of the same N candidates, whatever its value (by a hash of its picture, so that the choice
  can be repeated). It is a plan like that of N = 1 from other draws: what it wins and loses against N = 1 is chance.
* "N = ..., worst value": the candidate of the smallest value. If the value knows anything that matters, this row is
  the worst, and the distance from best to worst is twice what there is to see.

The controls are run for the smallest N alone unless --controls names others: a random choice of 16 is distributed like
one of 4, like N = 1.

Candidates differ by what they imagine: video codes are drawn at --video-temperature 1, the action bins at
--temperature 0 are the likeliest for that video (the defaults of the policy, and of its reported success). With
--temperature above 0 the actions differ for the same video too, and N = 1 is drawn like that as well.

Columns: success with its 95 % Wilson interval; episodes won and lost against N = 1 with the two-sided sign test of
these; against the random choice; ms of one plan for one robot (as in sampler_quality.py: median, the
rows take turns; on a CPU the processor time of one thread) and `ratio`, how many plans of N = 1 that is; of plans on
recorded observations how much the values of the N candidates spread (standard deviation; V is minus the discounted
number of steps to the goal) and how far the actions of two candidates lie apart (mean absolute difference, of a range
of [-1, 1]). Finished parts lie in --out and are not measured again.
"""

import argparse
import hashlib
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path


PLAIN = "N = 1"


@dataclass(frozen=True)
class Row:
    """A way of choosing among `count` candidates: "best", "random", "worst"; of one there is nothing to choose."""

    count: int = 1
    choice: str = "best"

    @property
    def name(self) -> str:
        if self.count == 1:
            return PLAIN
        return f"N = {self.count}, {self.choice}{'' if self.choice == 'random' else ' value'}"


def make_rows(counts, controls=None) -> list[Row]:
    """The cheap ones first: a run that is stopped has measured what matters most. controls: the N of the other two
    choices; the smallest if not given."""
    counts, rows = sorted(set(counts)), [Row()]
    controls = counts[:1] if controls is None else controls
    for count in counts:
        rows += [Row(count, choice) for choice in ("best", "random", "worst") if choice == "best" or count in controls]
    return rows


# ---- the two controls: anything with `values`, `processor` and what else a ranker has -------------------------------


class _Control:
    """Ranks like another ranker, but for its values."""

    def __init__(self, ranker):
        self.ranker, self.processor = ranker, ranker.processor

    def check_policy(self, *args) -> None:
        self.ranker.check_policy(*args)

    def require_goals(self, instructions) -> None:
        self.ranker.require_goals(instructions)

    def to(self, device):
        self.ranker.to(device)
        return self

    @property
    def fingerprint(self) -> str:
        return f"{type(self).__name__} {self.ranker.fingerprint}"


class ByHash(_Control):
    """A random choice: the value of a picture is a hash of it, in [0, 1). The same picture, the same number."""

    def values(self, frames, instructions):
        import torch

        pictures = frames.flatten(0, 1).cpu().numpy()
        digests = [hashlib.blake2b(picture.tobytes(), digest_size=6).digest() for picture in pictures]
        found = torch.tensor([int.from_bytes(digest, "little") / 2**48 for digest in digests], dtype=torch.float64)
        return found.view(frames.shape[:2]).to(frames.device)


class Reversed(_Control):
    """The value of the value model, the other way round."""

    def values(self, frames, instructions):
        return -self.ranker.values(frames, instructions)


CONTROLS = {"best": lambda ranker: ranker, "random": ByHash, "worst": Reversed}


def make_policies(rows, args, ranker) -> dict:
    from hf_vpdd.evaluation.policies import load_policy

    shared = {"temperature": args.temperature, "video_temperature": args.video_temperature}
    shared = {name: value for name, value in shared.items() if value is not None}
    policies = {}
    for row in rows:
        guided = {} if row.count == 1 else {"value_model": CONTROLS[row.choice](ranker), "num_candidates": row.count}
        policies[row.name] = load_policy(args.policy, **shared, **guided)
    return policies


# ---- measuring ------------------------------------------------------------------------------------------------------


def spreads(policy, seen) -> dict[str, float]:
    """How much the candidates of a plan differ, on recorded observations: in value, and in action."""
    import numpy as np
    import torch

    camera, values, apart = policy.processor.cameras[0], [], []
    for index in range(len(seen["frame"])):
        obs = {"images": {camera: seen["frame"][index]}, "state": seen["state"][index],
               "instruction": str(seen["instruction"][index])}  # fmt: skip
        found = policy.predict(obs, generator=torch.Generator().manual_seed(index))
        actions = found.candidate_actions[0]
        values.append(found.values[0].std())
        pairs = np.abs(actions[:, None] - actions[None]).mean((2, 3))
        apart.append(pairs.sum() / (len(actions) * (len(actions) - 1)))
    return {"value_spread": float(np.mean(values)), "actions_apart": float(np.mean(apart))}


def sign_test(won: int, lost: int) -> float:
    """Two-sided p of so many episodes won and lost if both were equally likely."""
    n, k = won + lost, min(won, lost)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def measure(args, rows, policies, kept) -> None:
    """All that is not there yet, cheap things first."""
    import sampler_quality as shared

    from hf_vpdd.envs.tasks import resolve_tasks
    from hf_vpdd.evaluation.episodes import make_episodes
    from hf_vpdd.evaluation.runner import evaluate

    episodes = make_episodes(args.tasks, args.episodes, args.seed, args.perturb)
    for policy in policies.values():
        if policy.ranker is not None:
            policy.ranker.require_goals(episode.instruction for episode in episodes)
    seen = shared.observations(policies[PLAIN], args, resolve_tasks(args.tasks))
    if any(kept.get(name, "time") is None for name in policies):
        for name, value in shared.times(policies, seen, args.repeats).items():
            kept.put(name, "time", {**value, "peak_mb": shared.peak_mb()})
    for row in rows:
        if row.count > 1 and row.choice == "best" and kept.get(row.name, "spread") is None:
            kept.put(row.name, "spread", spreads(policies[row.name], seen))
    for row in rows:
        if kept.get(row.name, "episodes") is None:
            done = evaluate(
                policies[row.name], episodes, args.out / "episodes" / shared.slug(row.name), name=row.name,
                checkpoint=args.policy, workers=args.workers, envs=args.envs, max_steps=args.max_steps, resume=True,
                progress=not args.json,
            )  # fmt: skip
            kept.put(row.name, "episodes", done.results)
            print(markdown(gather(rows, kept)).splitlines()[2 + rows.index(row)], file=sys.stderr, flush=True)


def gather(rows, kept) -> list[dict]:
    """One flat dictionary per row."""
    from hf_vpdd.evaluation.metrics import score

    def successes(name) -> dict:
        return {(one["task"], one["seed"]): one["success"] for one in kept.get(name, "episodes") or ()}

    plain_ms, out = (kept.get(PLAIN, "time") or {}).get("ms"), []
    chance = [row for row in rows if row.choice == "random"]
    for row in rows:
        line = {"name": row.name, "ms": None, "ratio": None, "peak_mb": None}
        line |= {**(kept.get(row.name, "time") or {}), **(kept.get(row.name, "spread") or {})}
        if line["ms"] and plain_ms:
            line["ratio"] = line["ms"] / plain_ms
        if results := kept.get(row.name, "episodes"):
            one, ours = score(row.name, results), successes(row.name)
            line |= {"episodes": one.episodes, "success": one.rate, "low": one.low, "high": one.high}
            # of the same N where there is one
            nearest = min(chance, key=lambda other: abs(other.count - row.count), default=row)
            for against, name in (("plain", PLAIN), ("random", row.name if row.count == 1 else nearest.name)):
                theirs = successes(name)
                if name == row.name or not theirs:
                    continue
                won = sum(ours[key] and not theirs[key] for key in ours if key in theirs)
                lost = sum(theirs[key] and not ours[key] for key in ours if key in theirs)
                line |= {f"won_{against}": won, f"lost_{against}": lost, f"p_{against}": sign_test(won, lost)}
        out.append(line)
    return out


def markdown(lines: list[dict]) -> str:
    """The table for the documentation."""
    head = (
        "| choice | episodes | success [95 %] | won / lost to N = 1 (p) | to random (p) | ms a plan | times N = 1 | "
        "spread of values | actions apart |"
    )
    out = [head, "|" + "---|" * 9]
    text = lambda line, name, form: "–" if line.get(name) is None else form.format(line[name])  # noqa: E731
    for line in lines:
        success = "–"
        if "success" in line:
            low, high = (f"{100 * line[name]:.0f}" for name in ("low", "high"))
            success = f"{100 * line['success']:.1f} % [{low}, {high}]"
        pairs = [
            f"{line[f'won_{name}']} / {line[f'lost_{name}']} ({line[f'p_{name}']:.2f})"
            if f"won_{name}" in line
            else "–"
            for name in ("plain", "random")
        ]
        cells = [
            line["name"], text(line, "episodes", "{}"), success, *pairs, text(line, "ms", "{:.0f}"),
            text(line, "ratio", "{:.1f}x"), text(line, "value_spread", "{:.2f}"),
            text(line, "actions_apart", "{:.3f}"),
        ]  # fmt: skip
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


BEGIN, END = "<!-- table: written by value_guided_planning.py -->", "<!-- end of the planning table -->"


def untrained_ranker(policy: str):
    """For --quick: a small value network that has learned nothing, of the policy's camera, with noise for goals."""
    import numpy as np
    import torch

    from hf_vpdd.envs.tasks import MT10
    from hf_vpdd.evaluation.episodes import make_episodes
    from hf_vpdd.modeling.vptr import VPTRConfig, VPTRForValuePrediction
    from hf_vpdd.modeling.vptr.processing_vptr import VPTRProcessor
    from hf_vpdd.policy import RobotPolicy
    from hf_vpdd.value_planning import ValueRanker

    torch.manual_seed(0)
    reader = RobotPolicy.from_pretrained(policy)
    side = min(32, reader.model.config.vqvae_config.image_size)
    model = VPTRForValuePrediction(VPTRConfig.tiny(side, impala_widths=[4, 4], value_hidden_sizes=[16, 16]))
    processor = VPTRProcessor(image_size=side, condition="none", cameras=reader.processor.cameras[0])
    goal = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return ValueRanker(model, processor, {episode.instruction: goal for episode in make_episodes(MT10, 1)})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few rows and episodes: under a minute on 2 cores")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--policy", help="folder of a VPDD checkpoint; the shipped one if not given")
    parser.add_argument("--value-model", help="folder of a V-PTR value model; an untrained one with --quick")
    parser.add_argument("--value-goals", help="demonstrations whose last frames are the goals, if it reads no words")
    parser.add_argument("--out", type=Path, help="what is measured already; outputs/value_planning if not given")
    parser.add_argument(
        "--candidates", type=int, nargs="+", default=[4, 16], metavar="N", help="numbers of candidates"
    )
    parser.add_argument("--controls", type=int, nargs="*", metavar="N", help="of these; the smallest if not given")
    parser.add_argument("--temperature", type=float, help="of the action bins; the policy's own (0) if not given")
    parser.add_argument("--video-temperature", type=float, help="of the codes; the policy's own (1) if not given")
    parser.add_argument("--tasks", default="mt10", help="as in `hf-vpdd eval`")
    parser.add_argument("--episodes", type=int, default=20, help="per task and row")
    parser.add_argument("--seed", type=int, default=100000, help="of the first episode of each task")
    parser.add_argument("--perturb", help="change the scene or words, as in `hf-vpdd eval`")
    parser.add_argument("--max-steps", type=int, help="of an episode; the protocol's own number if not given")
    parser.add_argument(
        "--token-episodes", type=int, default=2, help="expert episodes per task, for timing and spread"
    )
    parser.add_argument("--moments", type=int, default=4, help="observations of each")
    parser.add_argument("--repeats", type=int, default=15, help="plans to time, at most")
    parser.add_argument("--workers", type=int, default=1, help="simulator processes")
    parser.add_argument("--envs", type=int, default=8, help="episodes side by side")
    parser.add_argument("--report", action="store_true", help="measure nothing more: what is there already")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks in this page")
    args = parser.parse_args(argv)

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is imported
    import sampler_quality as shared

    from hf_vpdd.envs.gl import configure_gl
    from hf_vpdd.errors import InputError
    from hf_vpdd.evaluation.policies import identity
    from hf_vpdd.registration import DEFAULT_CHECKPOINT
    from hf_vpdd.value_planning import as_ranker

    if min(args.candidates) < 2:
        raise InputError(f"--candidates: N = 1 is always there; give numbers from 2 up, got {args.candidates}")
    if not set(args.controls or ()) <= set(args.candidates):
        raise InputError(f"--controls {args.controls}: not all are among --candidates {args.candidates}")
    if args.value_model is None and not args.quick:
        raise InputError(
            "--value-model: name the folder of a value model (training/pretrain.py --model vptr makes one), or use "
            "--quick"
        )
    args.policy = args.policy or str(DEFAULT_CHECKPOINT)
    args.out = args.out or Path("outputs/value_planning_quick" if args.quick else "outputs/value_planning")
    if args.quick:
        args.tasks, args.episodes, args.token_episodes, args.moments = "drawer-close", 1, 1, 2
        args.candidates, args.repeats, args.max_steps = [4], 3, args.max_steps or 40
    rows = make_rows(args.candidates, args.controls)
    configure_gl()
    ranker = (
        untrained_ranker(args.policy) if args.value_model is None else as_ranker(args.value_model, args.value_goals)
    )
    policies = make_policies(rows, args, ranker)
    weights = identity(policies[PLAIN], "", args.policy)
    setting = {
        "checkpoint": hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest(),
        "value_model": ranker.fingerprint, "tasks": args.tasks, "episodes": args.episodes, "seed": args.seed,
        "perturb": args.perturb, "max_steps": args.max_steps, "token_episodes": args.token_episodes,
        "moments": args.moments,
    }  # fmt: skip
    kept = shared.Kept(args.out / "rows.json", setting)
    if not args.report:
        measure(args, rows, policies, kept)
    lines = gather(rows, kept)
    if args.json:
        for line in lines:
            print(json.dumps({k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in line.items()}))
    else:
        print(markdown(lines))
    if args.write:
        shared.write_table(args.write, markdown(lines), BEGIN, END)
    return 0


if __name__ == "__main__":
    # Run as a file, the package may not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    sys.exit(main())
