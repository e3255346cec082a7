"""Value-guided planning: imagine several futures with their actions, carry out the one whose end is worth most.

    ranker = ValueRanker.from_pretrained("outputs/value", goals="data/metaworld_mt10")
    policy = RobotPolicy.from_pretrained("some-org/vpdd-metaworld", value_model=ranker, num_candidates=8)

The policy draws N futures and the actions that go with them in one batched call; of each, the last picture alone is
decoded, and V(s, g, g) of a value learned from video (V-PTR) says how near it comes to what the instruction asks for.

Candidates differ by their draws: at the default temperatures (video 1, actions 0) each imagines a video of its own,
and its actions are the likeliest for that video. The first candidate makes the draws that a plan without candidates
would make with the same generator.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from .errors import InputError
from .inference import Plan, imagines, plan, side_by_side
from .values import encode_frames, image_goal, load_value_model, text_goal


class ValueRanker:
    """A value model with its goals, ready to judge imagined pictures.

    Args:
        model: A [`VPTRForValuePrediction`]. It is switched to evaluation mode.
        processor: Its `VPTRProcessor`.
        goals: For a model whose intent is an image, what each instruction asks for: {instruction: image or images,
            uint8 (H, W, 3) or (G, H, W, 3)}; or demonstrations, a `LeRobotDataset` or its folder or Hub id, whose last
            frames are taken. Of several goals the nearest counts. A model whose intent is a sentence needs none.
        goals_per_instruction: Demonstrations to take, of each instruction.

    Raises:
        InputError: No goals where they are needed, or goals that are no images.
    """

    def __init__(self, model, processor, goals=None, goals_per_instruction: int = 8):
        if not hasattr(model, "value_heads"):
            raise InputError(
                f"value_model: {type(model).__name__} is no value model (VPTRForValuePrediction). Train one with "
                "training/pretrain.py --model vptr"
            )
        if processor is None or processor.image_size != model.config.image_size:
            reads = None if processor is None else processor.image_size
            raise InputError(
                f"value_model: its processor makes pictures of {reads} px, it reads {model.config.image_size}. Load "
                "both from one folder."
            )
        self.model, self.processor = model.eval(), processor
        self.in_words = model.config.intent == "text"
        self.goals: dict[str, torch.Tensor] = {}
        if not self.in_words:
            self.goals = self._goal_images(goals, goals_per_instruction)
        self._psi: dict[str, torch.Tensor] = {}
        self._fingerprint: str | None = None

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike, goals=None, device=None, goals_per_instruction: int = 8
    ) -> "ValueRanker":
        """From a folder or Hub repository of a value model."""
        return cls(*load_value_model(path, device), goals, goals_per_instruction)

    def _goal_images(self, goals, count: int) -> dict[str, torch.Tensor]:
        if goals is None:
            raise InputError(
                "value_goals: missing. This value model knows goals as images only (its intent is 'image'): name "
                "demonstrations (a dataset), whose last frames show what each instruction asks for, or give "
                "{instruction: image}"
            )
        if not isinstance(goals, Mapping):
            from .data.goal_frames import goal_frames

            goals = goal_frames(goals, self.processor.cameras[0], count)
        images = self.processor.image_processor
        found = {str(said): images.frames_to_uint8(frames, f"goal of {said!r}") for said, frames in goals.items()}
        if not found:
            raise InputError("value_goals: there are none; give at least one {instruction: image}.")
        most = max(map(len, found.values()))  # one count for all; a goal that is there twice changes no maximum
        return {said: frames[torch.arange(most) % len(frames)] for said, frames in found.items()}

    @property
    def device(self) -> torch.device:
        return self.model.device

    def to(self, device) -> "ValueRanker":
        self.model.to(device)
        self._psi.clear()
        return self

    @property
    def fingerprint(self) -> str:
        """Changes with the weights and the goals."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for name, tensor in (*self.model.state_dict().items(), *sorted(self.goals.items())):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def require_goals(self, instructions: Iterable[str]) -> None:
        """Raises an `InputError` for the first instruction that has no goal. Any sentence is one to a model that reads
        them."""
        for said in [] if self.in_words else instructions:
            if said not in self.goals:
                raise InputError(
                    f"value_goals: no goal for the instruction {said!r}; there are goals for {sorted(self.goals)}"
                )

    def check_policy(self, model, processor, num_candidates: int = 1) -> None:
        """Raises an `InputError` unless the policy imagines pictures that this value model can judge."""
        check_candidates(model, num_candidates)
        camera, cameras = self.processor.cameras[0], list(processor.cameras)
        if camera not in cameras:
            raise InputError(f"value_model: it looks through the camera {camera!r}, the policy through {cameras}.")
        side, reads = model.config.vqvae_config.image_size, self.processor.image_size
        if side < reads:
            raise InputError(
                f"value_model: it reads pictures of {reads} px, the policy imagines {side} px. Train it at {side} px "
                "or less: enlarged ones would look like nothing it has seen."
            )

    @torch.no_grad()
    def values(self, frames: torch.Tensor, instructions: Sequence[str]) -> torch.Tensor:
        """What imagined pictures are worth.

        Args:
            frames: uint8 (B, N, H, W, 3). instructions: B sentences.

        Returns:
            float32 (B, N): V(s, g, g), the mean of the heads, toward the nearest of the instruction's goals.
        """
        batch, count = frames.shape[:2]
        if len(instructions) != batch:
            raise InputError(f"instructions: expected {batch}, got {len(instructions)}.")
        heads = self.model.value_heads
        psi = self._goal_psi(instructions)  # (E, B, G, d)
        goals = psi.shape[2]
        small = self.processor.image_processor.frames_to_uint8(frames.flatten(0, 1), "imagined frames")
        phi = heads.represent_state(encode_frames(self.model, small))
        phi = phi.repeat_interleave(goals, dim=1)
        psi = psi.repeat_interleave(count, dim=1).flatten(1, 2)
        found = heads.value(phi, psi, psi).mean(0)
        return found.view(batch, count, goals).amax(-1).float()

    def _goal_psi(self, instructions: Sequence[str]) -> torch.Tensor:
        """Goals as the heads represent them; each instruction is encoded once."""
        new = [said for said in dict.fromkeys(instructions) if said not in self._psi]
        if new:
            self.require_goals(new)
            if self.in_words:
                goal, count = text_goal(self.model, self.processor, new), 1
            else:
                goal = image_goal(self.model, torch.cat([self.goals[said] for said in new]))
                count = len(self.goals[new[0]])
            psi = self.model.value_heads.represent_goal(goal.features).unflatten(1, (len(new), count))
            self._psi |= dict(zip(new, psi.unbind(1)))
        return torch.stack([self._psi[said] for said in instructions], dim=1)


def as_ranker(value_model, goals=None, device=None):
    """A folder, Hub id, or (model, processor) -> `ValueRanker`; what already ranks is returned as it is."""
    if hasattr(value_model, "values") and hasattr(value_model, "check_policy"):
        if goals is not None:
            raise InputError("value_goals: this ranker has its goals already.")
        return value_model
    if isinstance(value_model, (str, os.PathLike)):
        return ValueRanker.from_pretrained(value_model, goals, device)
    if isinstance(value_model, (tuple, list)) and len(value_model) == 2:
        return ValueRanker(*value_model, goals)
    raise InputError(
        f"value_model: expected a folder or Hub id, (model, processor) or a ValueRanker, got "
        f"{type(value_model).__name__}."
    )


def check_candidates(model, num_candidates: int, sampling: Mapping | None = None, ranked: bool = True) -> None:
    """Raises an `InputError` unless the policy can draw so many different plans, and something ranks them."""
    if not isinstance(num_candidates, (int, np.integer)) or isinstance(num_candidates, bool) or num_candidates < 1:
        raise InputError(f"num_candidates: must be a whole number of at least 1, got {num_candidates!r}.")
    if not ranked:
        if num_candidates > 1:
            raise InputError(f"num_candidates: {num_candidates} plans need a value_model that chooses between them.")
        return
    if not imagines(model) or not hasattr(model, "sample_video"):
        raise InputError(
            f"value_model: a {model.config.model_type} policy that draws no futures has none to choose between; it "
            "takes a VPDD policy that imagines video."
        )
    sampling = dict(sampling or {})
    cold = sampling.get("video_temperature") == 0 and not sampling.get("temperature")
    if num_candidates > 1 and cold:
        raise InputError(
            f"num_candidates: {num_candidates} plans at temperature 0 and video_temperature 0 would be alike; raise "
            "one of them (the default video_temperature is 1)."
        )


def candidate_generators(generator, batch: int, count: int) -> list[torch.Generator]:
    """A generator for each of `batch` * `count` plans, the candidates of an observation one after the other.

    An observation's first candidate draws from the generator that was given for it, like a plan without candidates;
    the others from new ones, seeded by the state of that one. One generator for several observations (or None,
    torch's global one) first seeds one for each.
    """
    if isinstance(generator, (list, tuple)):
        owners = list(generator)
        if len(owners) != batch:
            raise InputError(f"generator: {len(owners)} of them for a batch of {batch}; give one per observation.")
    elif generator is not None and batch == 1:
        owners = [generator]
    else:
        owners = _spawn(generator, batch)
    rows = []
    for owner in owners:
        twin = torch.Generator(owner.device)
        twin.set_state(owner.get_state())  # looked at, not drawn from
        rows += [owner, *_spawn(twin, count - 1)]
    return rows


def _spawn(generator: torch.Generator | None, count: int) -> list[torch.Generator]:
    device = "cpu" if generator is None else generator.device
    seeds = torch.randint(2**62, (count,), generator=generator, device=device).tolist()
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def plan_by_value(
    model,
    processor,
    inputs,
    ranker,
    instructions: Sequence[str],
    num_candidates: int,
    generator=None,
    return_video: bool = False,
    return_candidates: bool = False,
    **options,
) -> Plan:
    """One batched plan, the best of `num_candidates` for each observation.

    Args:
        inputs, return_video, options: As in [`hf_vpdd.inference.plan`]; the video is that of the chosen plan.
        ranker: A [`ValueRanker`], or anything with its `values` and `processor`. instructions: B sentences.
        generator: See `candidate_generators`.
        return_candidates: Decode the futures of all candidates.

    Returns:
        A `Plan` with `values` (B, N), `chosen` (B,), `candidate_actions` and, if asked for, `candidate_videos`.
    """
    batch, count = len(instructions), num_candidates
    if count > 1:
        generator = candidate_generators(generator, batch, count)
    drawn = plan(model, processor, inputs, generator=generator, num_samples=count, **options)
    codes = drawn.video_codes
    last = last_frames(model, processor, codes, ranker.processor.cameras[0]).unflatten(0, (batch, count))
    values = ranker.values(last, instructions).to(codes.device)
    chosen = values.argmax(dim=1)
    rows = torch.arange(batch, device=codes.device) * count + chosen

    def show(some: torch.Tensor) -> torch.Tensor:
        return side_by_side(processor.post_process_video(model.model.decode_video(some)))

    return Plan(
        actions=drawn.actions[rows],
        video=show(codes[rows]) if return_video else None,
        video_codes=codes[rows],
        values=values,
        chosen=chosen,
        candidate_actions=drawn.actions.unflatten(0, (batch, count)),
        candidate_videos=show(codes).unflatten(0, (batch, count)) if return_candidates else None,
    )


def last_frames(model, processor, codes: torch.Tensor, camera: str) -> torch.Tensor:
    """Codes (B, V, t, h, w) -> the last picture of one camera, uint8 (B, H, W, 3)."""
    pixels = model.model.decode_last_frame(codes, list(processor.cameras).index(camera))
    return processor.post_process_video(pixels)
