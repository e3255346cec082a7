"""Let the shipped policy look at one real picture, imagine the next second, and compare with what really comes.

    python examples/imagine.py                                   # outputs/imagine.mp4, some seconds on one core
    python examples/imagine.py --task window-open --seed 100003 --clips 6 --sampler halton

The video shows three pictures: the camera while the policy acts; what the policy imagined from the first picture
alone, clip after clip; and what the camera really saw at that moment.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import hf_vpdd
from hf_vpdd.envs.metaworld import MetaWorldEnv
from hf_vpdd.evaluation.episodes import Episode
from hf_vpdd.evaluation.rollout import Film
from hf_vpdd.evaluation.videos import EVERY, compose, write_video
from hf_vpdd.registration import DEFAULT_CHECKPOINT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(DEFAULT_CHECKPOINT), help="folder or Hub name; the shipped one")
    parser.add_argument("--task", default="button-press-topdown", help="a Meta-World task")
    parser.add_argument("--seed", type=int, default=100000, help="of the start; training used smaller ones")
    parser.add_argument("--clips", type=int, default=5, help="how far to imagine, 16 steps (0.2 s) each")
    parser.add_argument("--steps", type=int, default=8, help="denoising steps of a clip")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the video: 0 is sharpest, 1 most varied")
    parser.add_argument("--sampler", help="ancestral, confidence, entropy_bound or halton")
    parser.add_argument("--out", type=Path, default=Path("outputs/imagine.mp4"))
    args = parser.parse_args()

    # 1. a real picture
    pipe = hf_vpdd.VPDDPipeline.from_pretrained(args.model)
    camera, size = pipe.processor.cameras[0], pipe.processor.image_size
    env = MetaWorldEnv(args.task, camera=camera, image_size=size)
    obs, _ = env.reset(seed=args.seed)

    # 2. imagine: the first clip with its actions, the others as its continuation
    plan = pipe(
        obs["images"],
        obs["instruction"],
        state=obs["state"],
        num_clips=args.clips,
        num_inference_steps=args.steps,
        video_temperature=args.temperature,
        sampler=args.sampler,
        generator=torch.Generator().manual_seed(0),
    )
    imagined = (plan.videos[0] * 255).round().astype(np.uint8)  # (clips, size, size, 3)
    imagined = imagined[:: len(imagined) // args.clips]

    # 3. what really comes: the policy carries out this plan, and then plans anew as it always does
    ahead = pipe.model.config.predict_ahead
    policy = hf_vpdd.RobotPolicy(pipe.model, pipe.processor, seed=0)
    actions, frames, success = list(plan.actions[0][: policy.execute]), [env.render()], False
    for step in range(ahead * args.clips):
        if step >= len(actions):
            actions += list(policy.predict(obs).actions[0][: policy.execute])
        obs, *_, info = env.step(actions[step])
        success = success or bool(info["success"])
        if (step + 1) % EVERY == 0:
            frames.append(obs["images"][camera].copy())

    # 4. side by side
    film = Film(
        episode=Episode(args.task, args.seed, obs["instruction"]),
        success=success,
        actions=np.stack(actions[: ahead * args.clips]),
        plan_steps=np.arange(args.clips) * ahead,
        imagined=imagined,
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(write_video(args.out, compose(film, np.stack(frames), ahead)))


if __name__ == "__main__":
    main()
