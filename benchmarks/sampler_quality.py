"""What each sampler's speed costs: success, agreement of its tokens with the 100-step sampler, and time per plan.

    python benchmarks/sampler_quality.py                      # hours; goes on where it was stopped
    python benchmarks/sampler_quality.py --quick              # under a minute on 2 cores: that it runs, no result
    python benchmarks/sampler_quality.py --only "ancestral, 4" "halton, 4"
    python benchmarks/sampler_quality.py --json               # one object a line: name, ms, ratio, peak_mb, and more
    python benchmarks/sampler_quality.py --report --write benchmarks/sampler_quality.md   # the table of what is there

Three measurements of each row, all with the same weights:

* success: the same episodes for every sampler, by the evaluation behind `hf-vpdd eval`, each plan's random draws
  seeded by episode and number of the plan; with the 95% Wilson interval, and how many episodes were won and lost
  against the default sampler.
* tokens, on the same observations (scripted expert, starts that were never trained on): the share of the imagined
  video's codes that equal those of the 100-step sampler, and those of what the camera really saw `predict_ahead` steps
  later; the latter also for the codes that changed, where copying the present scores 0. Video codes are drawn at
  temperature 1, so two runs of one sampler differ as well: the row "ancestral, 100, other draws" says by how much.
  Actions (greedy): the mean distance of their bins from the 100-step sampler's.
* ms: one plan for one robot, median; the rows take turns. On a CPU the processor time of one thread, which is what a
  core that has nothing else to do would need. Beside it, how often trunk and action head are run.

`ratio` is the speed relative to the 100-step sampler. Finished parts lie in --out and are not measured again.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A sampler: its name here, and what `RobotPolicy` is told."""

    name: str
    options: dict = field(default_factory=dict)
    success: bool = True  # False: its tokens are all that is of interest


def _row(sampler: str, steps: int, **more) -> dict:
    return {"sampler": sampler, "num_inference_steps": steps, **more}


REFERENCE, DEFAULT = "ancestral, 100", "ancestral, 4"
# cheap ones first: a run that is stopped has measured what matters most
ROWS = (
    Row(DEFAULT, _row("ancestral", 4)),
    Row("ancestral, 1", _row("ancestral", 1)),
    Row("ancestral, 2", _row("ancestral", 2)),
    Row("two-phase, 2 + 2", _row("ancestral", 2, action_steps=2)),
    Row("two-phase, 2 + 4", _row("ancestral", 2, action_steps=4)),
    Row("confidence, 4", _row("confidence", 4)),
    Row("halton, 4", _row("halton", 4)),
    Row("ancestral, 4, real-time chunking", _row("ancestral", 4, real_time=True)),
    Row("entropy-bound, 8 at most", _row("entropy_bound", 8)),
    Row("ancestral, 8", _row("ancestral", 8)),
    Row("confidence, 8", _row("confidence", 8)),
    Row("halton, 8", _row("halton", 8)),
    Row("ancestral, 25", _row("ancestral", 25)),
    Row(REFERENCE, _row("ancestral", 100)),
    Row("ancestral, 100, other draws", _row("ancestral", 100), success=False),
)
QUICK = (DEFAULT, "ancestral, 1", "halton, 4")


# ---- observations with their real future ----------------------------------------------------------------------------


def record(policy, tasks, episodes: int, moments: int, first_seed: int):
    """Moments of scripted expert episodes: {"frame", "future" uint8 (N, S, S, 3), "state" (N, Ds), "task" (N,)}."""
    import numpy as np

    from hf_vpdd.envs.metaworld import MetaWorldEnv
    from hf_vpdd.evaluation.policies import predict_ahead

    ahead, camera = predict_ahead(policy), policy.processor.cameras[0]
    every = max(n for n in range(1, 9) if ahead % n == 0)  # pictures cost more than physics: look only so often
    kept: dict[str, list] = {"frame": [], "future": [], "state": [], "task": [], "instruction": []}
    for task in tasks:
        env = MetaWorldEnv(task, cameras=policy.processor.cameras, image_size=policy.processor.image_size)
        for seed in range(first_seed, first_seed + episodes):
            obs, _ = env.reset(seed=seed)
            frames, states, success = [obs["images"][camera].copy()], [obs["state"]], False
            while not (success and env.steps % every == 0) and env.steps < env.max_steps:
                due = (env.steps + 1) % every == 0
                obs, _, _, _, info = env.step(env.expert_action(), render=due)
                success = success or info["success"]
                if due:
                    frames.append(obs["images"][camera].copy())
                    states.append(obs["state"])
            last = max(0, len(frames) - 1 - ahead // every)
            for moment in sorted({round(part) for part in np.linspace(0, last, moments)}):
                kept["frame"].append(frames[moment])
                kept["future"].append(frames[min(moment + ahead // every, len(frames) - 1)])
                kept["state"].append(states[moment])
                kept["task"].append(task)
                kept["instruction"].append(obs["instruction"])
        env.close()
    return {name: np.stack(values) for name, values in kept.items()}


def observations(policy, args, tasks):
    """The moments, recorded once for each --out."""
    import numpy as np

    from hf_vpdd.files import atomic_path

    path = args.out / "observations.npz"
    if not path.exists():
        print(f"recording {path}", file=sys.stderr)
        arrays = record(policy, tasks, args.token_episodes, args.moments, args.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data}


# ---- the three measurements -----------------------------------------------------------------------------------------


def tokens(policy, row: Row, seen, batch: int = 32):
    """Video codes int64 (N, L) and action bins int64 (N, chunk, A) for the observations, each with its own draws."""
    import torch

    from hf_vpdd.inference import plan

    options = dict(row.options)
    options.pop("real_time", None)  # a plan from nothing is the same with and without
    codes, bins = [], []
    other = int(row.name.endswith("other draws"))
    for begin in range(0, len(seen["frame"]), batch):
        part = slice(begin, begin + batch)
        inputs = model_inputs(policy, seen, part)
        generators = [
            torch.Generator().manual_seed(2 * (begin + i) + other) for i in range(len(inputs["pixel_values"]))
        ]
        with torch.inference_mode():
            found = plan(policy.model, policy.processor, inputs, generator=generators, **options)
        codes.append(found.video_codes.flatten(1).cpu())
        bins.append(policy.processor.encode_actions(found.actions.cpu()))
    return torch.cat(codes), torch.cat(bins)


def reference_tokens(policy, seen, steps: int, path: Path):
    """`tokens` of the sampler that all are compared with, sampled once for each --out."""
    import numpy as np
    import torch

    from hf_vpdd.files import atomic_path

    if not path.exists():
        codes, bins = tokens(policy, Row(REFERENCE, _row("ancestral", steps)), seen)
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, codes=codes.numpy(), bins=bins.numpy())
    with np.load(path, allow_pickle=False) as data:
        return torch.from_numpy(data["codes"]), torch.from_numpy(data["bins"])


def model_inputs(policy, seen, part):
    camera = policy.processor.cameras[0]
    return policy.processor(
        images=[{camera: frame} for frame in seen["frame"][part]],
        instruction=[str(sentence) for sentence in seen["instruction"][part]],
        state=seen["state"][part] if policy.model.config.state_dim else None,
    )


def real_codes(policy, frames, batch: int = 32):
    """uint8 (N, S, S, 3) -> the tokenizer's codes, int64 (N, L)."""
    import torch

    camera, out = policy.processor.cameras[0], []
    for begin in range(0, len(frames), batch):
        pixels = policy.processor(images=[{camera: frame} for frame in frames[begin : begin + batch]])["pixel_values"]
        out.append(policy.model.model.encode_video(pixels.to(policy.model.device)).flatten(1).cpu())
    return torch.cat(out)


def compare(found, reference, future, present) -> dict[str, float]:
    """Agreement of (codes, bins) with the reference sampler's and with the real future's codes."""
    codes, bins = found
    changed = future != present
    return {
        "codes_as_reference": float((codes == reference[0]).double().mean()),
        "codes_as_future": float((codes == future).double().mean()),
        "changed_codes_as_future": float((codes == future)[changed].double().mean()),
        "bins_from_reference": float((bins - reference[1]).abs().double().mean()),
    }


class Passes:
    """Counts how often the trunk runs over the codes, and the action head over the bins."""

    def __init__(self, model):
        self.counts = {"trunk": 0, "head": 0}
        self.parts = {"trunk": (model.model.trunk, "forward"), "head": (model.action_head, "decode")}

    def __enter__(self) -> dict[str, int]:
        for name, (module, method) in self.parts.items():
            setattr(module, method, self._counting(name, getattr(module, method)))
        return self.counts

    def _counting(self, name, function):
        def counted(*args, **kwargs):
            self.counts[name] += 1
            return function(*args, **kwargs)

        return counted

    def __exit__(self, *_):
        for module, method in self.parts.values():
            delattr(module, method)  # the class's own shows again


def times(policies, seen, repeats: int, limit_s: float = 20.0) -> dict[str, dict]:
    """For one robot: {name: {"ms" a plan, "trunk_passes", "head_passes"}}; the rows take turns."""
    import torch

    on_cpu = next(iter(policies.values())).device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter  # the first knows nothing of a GPU's work
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    camera = next(iter(policies.values())).processor.cameras[0]
    looks = [
        {"images": {camera: frame}, "state": state, "instruction": str(sentence)}
        for frame, state, sentence in zip(seen["frame"], seen["state"], seen["instruction"])
    ]
    found, spent = {name: [] for name in policies}, dict.fromkeys(policies, 0.0)
    counts = {}
    for name, policy in policies.items():
        with Passes(policy.model) as counts[name]:
            policy.predict(looks[0], generator=torch.Generator().manual_seed(0))  # and warm
    for index in range(repeats):
        for name, policy in policies.items():
            if spent[name] > limit_s:  # of 100 steps, fewer repeats will do
                continue
            began = clock()
            policy.predict(looks[index % len(looks)], generator=torch.Generator().manual_seed(index))
            found[name].append(1000 * (clock() - began))
            spent[name] += found[name][-1] / 1000
    torch.set_num_threads(threads)
    return {
        name: {"ms": statistics.median(found[name]), "trunk_passes": counts[name]["trunk"],
               "head_passes": counts[name]["head"]}
        for name in policies
    }  # fmt: skip


def succeed(policy, row: Row, args, episodes) -> list[dict]:
    """The row's episodes, run or read from --out."""
    from hf_vpdd.evaluation.runner import evaluate

    return evaluate(
        policy, episodes, args.out / "episodes" / slug(row.name), name=row.name, checkpoint=args.policy,
        workers=args.workers, envs=args.envs, max_steps=args.max_steps, resume=True, progress=not args.json,
    ).results  # fmt: skip


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


# ---- keeping what is measured ---------------------------------------------------------------------------------------


class Kept:
    """Measurements by row and kind in --out/rows.json, together with what they depend on."""

    def __init__(self, path: Path, setting: dict):
        from hf_vpdd.errors import InputError

        self.path = path
        self.data = {"setting": setting, "rows": {}}
        if path.exists():
            self.data = json.loads(path.read_text(encoding="utf-8"))
            if self.data["setting"] != setting:
                raise InputError(f"{path}: measured with other settings ({self.data['setting']}); name another --out")

    def get(self, row: str, kind: str):
        return self.data["rows"].get(row, {}).get(kind)

    def put(self, row: str, kind: str, value) -> None:
        from hf_vpdd.files import atomic_write_text

        self.data["rows"].setdefault(row, {})[kind] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.path, json.dumps(self.data, indent=1) + "\n")


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def gather(rows, kept: Kept) -> list[dict]:
    """One flat dictionary per row with a measurement."""
    out = []
    reference_ms = (kept.get(REFERENCE, "time") or {}).get("ms")
    default = {_key(one): one["success"] for one in kept.get(DEFAULT, "episodes") or ()}
    from hf_vpdd.evaluation.metrics import score

    for row in rows:
        timing, agreement, results = (kept.get(row.name, kind) for kind in ("time", "tokens", "episodes"))
        line = {"name": row.name, "ms": None, "ratio": None, "peak_mb": None, **(timing or {}), **(agreement or {})}
        if line["ms"] and reference_ms:
            line["ratio"] = reference_ms / line["ms"]
        if results:
            one = score(row.name, results)
            line |= {"episodes": one.episodes, "success": one.rate, "low": one.low, "high": one.high}
            pairs = [(one["success"], default[_key(one)]) for one in results if _key(one) in default]
            line |= {"won": sum(a and not b for a, b in pairs), "lost": sum(b and not a for a, b in pairs)}
        out.append(line)
    return out


def _key(result) -> str:
    return f"{result['task']}/{result['seed']}"


def markdown(lines: list[dict]) -> str:
    """The table of `sampler_quality.md`."""
    head = (
        "| sampler | success [95 %] | won / lost to default | ms a plan | faster than 100 | trunk + head passes | "
        "codes as 100 steps' | codes as the real future's | changed ones | action bins off |"
    )
    out = [head, "|" + "---|" * 10]
    text = lambda line, name, form: "–" if line.get(name) is None else form.format(line[name])  # noqa: E731
    for line in lines:
        success = "–"
        if "success" in line:
            low, high = (f"{100 * line[name]:.0f}" for name in ("low", "high"))
            success = f"{100 * line['success']:.0f} % [{low}, {high}]"
        pairs = f"{line['won']} / {line['lost']}" if "won" in line and line["name"] != DEFAULT else "–"
        passes = "–"
        if "trunk_passes" in line:
            passes = f"{line['trunk_passes']} + {line['head_passes']}"
        cells = [
            line["name"] + (" (default)" if line["name"] == DEFAULT else ""), success, pairs,
            text(line, "ms", "{:.1f}"), text(line, "ratio", "{:.1f}x"), passes,
            *(text(line, name, "{:.1%}").replace("%", " %")
              for name in ("codes_as_reference", "codes_as_future", "changed_codes_as_future")),
            text(line, "bins_from_reference", "{:.2f}"),
        ]  # fmt: skip
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def measure(args, rows, policies, kept: Kept) -> None:
    """All that is not there yet, cheap things first."""
    from hf_vpdd.envs.tasks import resolve_tasks
    from hf_vpdd.evaluation.episodes import make_episodes

    any_policy = next(iter(policies.values()))
    seen = observations(any_policy, args, resolve_tasks(args.tasks))
    future, present = (real_codes(any_policy, seen[name]) for name in ("future", "frame"))
    kept.put("copy of the present", "tokens", compare_copy(present, future))
    missing = [row for row in rows if kept.get(row.name, "tokens") is None]
    if missing:
        reference = reference_tokens(any_policy, seen, 10 if args.quick else 100, args.out / "reference.npz")
        for row in missing:
            found = reference if row.name == REFERENCE else tokens(any_policy, row, seen)
            kept.put(row.name, "tokens", compare(found, reference, future, present))
    to_time = {row.name: policies[row.name] for row in rows if row.success}
    if any(kept.get(name, "time") is None for name in to_time):
        for name, value in times(to_time, seen, args.repeats).items():
            kept.put(name, "time", {**value, "peak_mb": peak_mb()})
    episodes = make_episodes(args.tasks, args.episodes, args.seed)
    for row in rows:
        if row.success and kept.get(row.name, "episodes") is None:
            results = succeed(policies[row.name], row, args, episodes)
            kept.put(row.name, "episodes", results)
            print(markdown(gather([row], kept)).splitlines()[-1], file=sys.stderr, flush=True)


BEGIN, END = "<!-- table: written by sampler_quality.py -->", "<!-- end of the table -->"


def write_table(path: Path, table: str, begin: str = BEGIN, end: str = END) -> None:
    """Puts the table, and where it comes from, between the marks in a page; the words around it stay."""
    from hf_vpdd.errors import InputError
    from hf_vpdd.evaluation.results import provenance
    from hf_vpdd.files import atomic_write_text

    page = path.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise InputError(f"--write: {path} lacks the marks {begin!r} and {end!r} that say where the table goes")
    origin = provenance()
    source = f"Written on {origin['date'][:10]} from runs on {origin['machine']}, torch {origin['versions']['torch']}."
    before, after = page[: page.index(begin)], page[page.index(end) :]
    atomic_write_text(path, f"{before}{begin}\n\n{table}\n\n{source}\n\n{after}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows and episodes: under a minute on 2 cores")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--policy", help="folder of a checkpoint; the shipped one if not given")
    parser.add_argument("--out", type=Path, help="what is measured already; outputs/sampler_quality if not given")
    parser.add_argument("--tasks", default="mt10", help="as in `hf-vpdd eval`")
    parser.add_argument("--episodes", type=int, default=10, help="per task and sampler")
    parser.add_argument("--seed", type=int, default=100000, help="of the first episode of each task")
    parser.add_argument("--max-steps", type=int, help="of an episode; the protocol's own number if not given")
    parser.add_argument("--token-episodes", type=int, default=4, help="expert episodes per task for the tokens")
    parser.add_argument("--moments", type=int, default=4, help="observations of each")
    parser.add_argument("--repeats", type=int, default=15, help="plans to time, at most")
    parser.add_argument("--workers", type=int, default=1, help="simulator processes")
    parser.add_argument("--envs", type=int, default=8, help="episodes side by side")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows and the reference's tokens")
    parser.add_argument("--report", action="store_true", help="measure nothing more: what is there already")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks in this page")
    args = parser.parse_args(argv)

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is imported
    from hf_vpdd.envs.gl import configure_gl
    from hf_vpdd.errors import InputError
    from hf_vpdd.evaluation.policies import identity, load_policy
    from hf_vpdd.registration import DEFAULT_CHECKPOINT

    rows = [row for row in ROWS if not args.quick or row.name in QUICK]
    if args.only:
        unknown = sorted(set(args.only) - {row.name for row in ROWS})
        if unknown:
            raise InputError(f"--only: there is no row {unknown[0]!r}; there are {[row.name for row in ROWS]}")
        rows = [row for row in ROWS if row.name in args.only]
    args.policy = args.policy or str(DEFAULT_CHECKPOINT)
    args.out = args.out or Path("outputs/sampler_quality_quick" if args.quick else "outputs/sampler_quality")
    if args.quick:
        args.tasks, args.episodes, args.token_episodes, args.moments = "quickstart", 1, 1, 2
        args.repeats, args.max_steps = 5, args.max_steps or 60
    configure_gl()
    policies = {row.name: load_policy(args.policy, **row.options) for row in rows}
    weights = {**identity(next(iter(policies.values())), "", args.policy), "sampling": None}
    weights.pop("real_time", None)
    setting = {
        "checkpoint": hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest(),
        "tasks": args.tasks, "episodes": args.episodes, "seed": args.seed, "max_steps": args.max_steps,
        "token_episodes": args.token_episodes, "moments": args.moments,
    }  # fmt: skip
    kept = Kept(args.out / "rows.json", setting)

    if not args.report:
        measure(args, rows, policies, kept)
    lines = gather([*rows, Row("copy of the present")], kept)
    if args.json:
        for line in lines:
            print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}))
    else:
        print(markdown(lines))
    if args.write:
        write_table(args.write, markdown(lines))
    return 0


def compare_copy(present, future) -> dict[str, float]:
    """What predicting that nothing moves would score."""
    return {"codes_as_future": float((present == future).double().mean()), "changed_codes_as_future": 0.0}


if __name__ == "__main__":
    # Run as a file, the package may not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    sys.exit(main())
