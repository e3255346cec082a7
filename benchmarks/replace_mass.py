"""What the replacement mass does: to a training sequence, and to the tokens of a plan on their way.

    python benchmarks/replace_mass.py            # with the shipped checkpoint, first pictures of six Meta-World tasks
    python benchmarks/replace_mass.py --json     # one object a line

"corrupted" rows are training: 592 tokens (576 of 2048 codes, 16 of 48 bins) through `add_noise` at every noise level.
`wrong` is the mean number of visible tokens that are not the clean one in a sequence, `wrong_share` their share of all
visible tokens at t = 50. "plan" rows are sampling, the exact ancestral chain of 100 steps at temperature 1: in
`revised_per_step` percent of the visible tokens change in a step, `revised_per_token` times does a token change from
the moment that it is first visible. `certain` is the mean probability that the network gives to the token it sees.
"""

import argparse
import sys
from pathlib import Path


TASKS = ("drawer-close-v3", "window-open-v3", "button-press-topdown-v3", "door-open-v3", "reach-v3", "push-v3")


def corrupted(mass: float, rounds: int = 50) -> dict:
    import torch

    from hf_vpdd.schedulers import MaskAndReplaceScheduler

    scheduler, generator = MaskAndReplaceScheduler(replace_mass=mass), torch.Generator().manual_seed(0)
    t = torch.arange(100).repeat(20)
    wrong, visible = torch.zeros(len(t)), torch.zeros(len(t))
    for _ in range(rounds):
        for classes, tokens in ((2048, 576), (48, 16)):
            clean = torch.randint(classes, (len(t), tokens), generator=generator)
            noisy = scheduler.add_noise(clean, t, classes, generator)
            wrong += ((noisy != clean) & (noisy != classes)).sum(1)
            visible += (noisy != classes).sum(1)
    middle = t == 50
    share = float(wrong[middle].sum() / visible[middle].sum())
    return {"name": f"corrupted, mass {mass:g}", "wrong": float(wrong.mean()) / rounds, "wrong_share": share}


def planned(policy, observations, mass: float, truncation: float | None) -> dict:
    import torch

    from hf_vpdd.schedulers import MaskAndReplaceScheduler

    config = policy.model.config
    scheduler = MaskAndReplaceScheduler(
        config.num_train_timesteps, replace_mass=mass, truncation=truncation, alpha_bar_start=config.alpha_bar_start
    )
    size = config.vqvae_config.codebook_size
    last, counts, certain = [None], torch.zeros(2), []
    trunk = policy.model.model.trunk
    plain = trunk.forward

    def watched(codes, timesteps, context):
        logits, hidden = plain(codes, timesteps, context)
        seen = codes != size
        probs = torch.softmax(logits.float(), -1).gather(-1, codes.clamp(max=size - 1).unsqueeze(-1)).squeeze(-1)
        certain.append(probs[seen])
        return logits, hidden

    def count(index, timestep, tensors):
        codes = tensors["video_codes"]
        if last[0] is not None:
            visible = last[0] != size
            counts.add_(torch.tensor([float((visible & (codes != last[0])).sum()), float(visible.sum())]))
        last[0] = codes.clone()

    trunk.forward = watched
    try:
        inputs = policy.processor(*([x[key] for x in observations] for key in ("images", "instruction", "state")))
        names = ("pixel_values", "input_ids", "attention_mask", "state")
        policy.model.sample_actions(
            **{name: inputs[name] for name in names if name in inputs},
            num_inference_steps=config.num_train_timesteps,
            temperature=1.0,
            video_temperature=1.0,
            action_bin_mask=policy.processor.valid_bin_mask,
            generator=torch.Generator().manual_seed(0),
            scheduler=scheduler,
            callback_on_step_end=count,
        )
    finally:
        del trunk.forward
    changed, visible = counts.tolist()
    return {
        "name": f"plan, mass {mass:g}, "
        + ("all of the distribution" if truncation is None else f"top {truncation:g}"),
        "revised_per_step": 100 * changed / visible,
        "revised_per_token": changed / last[0].numel(),
        "certain": float(torch.cat(certain).mean()),
    }


def first_observations(policy) -> list[dict]:
    from hf_vpdd.envs.gl import configure_gl
    from hf_vpdd.envs.metaworld import MetaWorldEnv

    configure_gl()
    observations = []
    for task in TASKS:
        env = MetaWorldEnv(task, cameras=tuple(policy.processor.cameras), image_size=policy.processor.image_size)
        observations.append(env.reset(seed=100000)[0])
        env.close()
    return observations


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--policy", help="checkpoint to plan with; the shipped one by default")
    args = parser.parse_args(argv)

    from reporting import print_rows

    from hf_vpdd.evaluation.policies import load_policy
    from hf_vpdd.registration import DEFAULT_CHECKPOINT

    policy = load_policy(args.policy or str(DEFAULT_CHECKPOINT))
    observations = first_observations(policy)
    print_rows([corrupted(mass) for mass in (1e-6, 0.02)], args.json)
    rows = [planned(policy, observations, mass, truncation) for mass in (1e-6, 0.02) for truncation in (0.88, None)]
    trained = f"The checkpoint was trained with replace_mass = {policy.model.config.replace_mass:g}."
    print_rows(rows, args.json, (trained,))
    return 0


if __name__ == "__main__":
    # Run as a file, the package may not be installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    sys.exit(main())
