"""From processed observations to actions in robot units: the one path that controller and pipelines share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .errors import InputError
from .modeling.vpdd.conditioning import repeat_rows
from .modeling.vpdd.sampling import Guide, check_steps
from .schedulers import check_sampler


@dataclass
class Plan:
    """A batch of plans.

    Args:
        actions: float32 (B, chunk, A) in the robot's units, on the model's device.
        video: uint8 (B, T, H, W, 3), the imagined future clip, cameras side by side; None unless asked for.
        video_codes: int64 (B, V, t, h, w), the same before decoding; None for behaviour cloning, which imagines none.
        values, chosen, candidate_actions, candidate_videos: Of the best of several plans, see
            [`hf_vpdd.value_planning.plan_by_value`]: float32 (B, N), int64 (B,), float32 (B, N, chunk, A) and uint8
            (B, N, T, H, W, 3).
    """

    actions: torch.Tensor
    video: torch.Tensor | None = None
    video_codes: torch.LongTensor | None = None
    values: torch.Tensor | None = None
    chosen: torch.LongTensor | None = None
    candidate_actions: torch.Tensor | None = None
    candidate_videos: torch.Tensor | None = None


def check_pair(model, processor) -> None:
    """Raises an `InputError` unless `processor` fits the policy `model` and has all statistics a policy needs."""
    if not hasattr(model, "sample_actions"):
        raise InputError(
            f"model: {type(model).__name__} predicts no actions. Load a fine-tuned policy (VPDDForRobotPolicy), or "
            "fine-tune this one on demonstrations first."
        )
    if processor is None:
        raise InputError(
            "processor: missing. Action bins and state statistics live there; pass "
            "processor=AutoProcessor.from_pretrained(FOLDER) along with a model instance."
        )
    config = model.config
    pairs = [
        ("chunk_size", processor.chunk_size, config.chunk_size),
        ("action_objective", processor.action_objective, config.action_objective),
    ]
    if config.action_objective == "diffusion":
        pairs.append(("num_action_bins", processor.num_action_bins, config.num_action_bins))
    _check_agreement(pairs)
    check_video_pair(model, processor)
    processor.require_policy_statistics(config.state_dim)
    if processor.action_dim != config.action_dim:
        raise InputError(
            f"processor and model disagree about the action dimensions: {processor.action_dim} and "
            f"{config.action_dim}. They come from different runs; load both from one folder."
        )


def check_video_pair(model, processor) -> None:
    """Raises an `InputError` unless `processor` makes the pictures and sentences that `model` reads."""
    if processor is None:
        raise InputError(
            "processor: missing. It knows cameras, picture size and words; pass "
            "processor=AutoProcessor.from_pretrained(FOLDER) along with a model instance."
        )
    config = model.config
    if not config.has_text_tower:
        raise InputError(
            f"model: this {type(model).__name__} was converted without its text tower, so it understands no sentence. "
            "Convert it again with CLIP's weights (hf-vpdd convert checkpoint --clip), or call its own methods with "
            "prompt_embeds."
        )
    _check_agreement(
        [
            ("history_frames", processor.history_frames, config.history_frames),
            ("number of cameras", len(processor.cameras), config.num_views),
            ("image size", processor.image_size, config.pixel_size),
        ]
    )
    text, words = config.text_config, processor.tokenizer
    if (
        text is not None
        and words is not None
        and (len(words) > text.vocab_size or processor.max_instruction_length > text.max_position_embeddings)
    ):
        raise InputError(
            f"processor and model disagree about the instruction: {len(processor.tokenizer)} kinds of tokens, up to "
            f"{processor.max_instruction_length} of them, for a text tower of {text.vocab_size} and "
            f"{text.max_position_embeddings}. They come from different runs; load both from one folder."
        )
    if hasattr(processor, "check_model"):  # what only this family can disagree about
        processor.check_model(config)


def _check_agreement(pairs) -> None:
    for name, ours, theirs in pairs:
        if ours != theirs:
            raise InputError(
                f"processor and model disagree about the {name}: {ours} and {theirs}. They come from different runs; "
                "load both from one folder."
            )


def check_is_policy_checkpoint(model) -> None:
    """Raises an `InputError` if the weights just loaded were saved by a class without action head.

    `from_pretrained` would start such a head at random with no more than a printed report; that is right for
    fine-tuning and dangerous for control.
    """
    saved_as = model.config.architectures or []
    if saved_as and type(model).__name__ not in saved_as:
        raise InputError(
            f"{model.name_or_path}: holds a {saved_as[0]}, not a policy ({type(model).__name__}). Fine-tune it on "
            "demonstrations first (training/finetune.py)."
        )
    if not hasattr(model, "sample_actions") and not hasattr(model, "sample_video"):
        raise InputError(
            f"{model.name_or_path}: holds a {type(model).__name__}, which neither acts nor imagines. A value model "
            "may guide another policy (value_model=...), or start one (training/offline_rl.py)."
        )


def check_sampling(
    config,
    num_inference_steps: int | None = None,
    temperature: float | None = None,
    video_temperature: float | None = None,
    sampler: str | None = None,
    action_steps: int | None = None,
    guidance_scale: float = 1.0,
) -> None:
    """Raises an `InputError` for the first option that a model of this `config` cannot be sampled with."""
    if not hasattr(config, "num_train_timesteps"):
        _check_one_pass(
            config.model_type, num_inference_steps=num_inference_steps, video_temperature=video_temperature,
            sampler=sampler, action_steps=action_steps, guidance_scale=None if guidance_scale == 1 else guidance_scale,
        )  # fmt: skip
        if temperature is not None and not getattr(config, "draws_actions", True):
            raise InputError(f"temperature: a {config.model_type} policy draws nothing at random.")
        if temperature is not None and not temperature >= 0:
            raise InputError(f"temperature: must be 0 (greedy) or more, got {temperature}.")
        return
    check_steps("num_inference_steps", num_inference_steps, config)
    check_steps("action_steps", action_steps, config)
    for name, value in (("temperature", temperature), ("video_temperature", video_temperature)):
        if value is not None and not value >= 0:
            raise InputError(f"{name}: must be 0 (greedy) or more, got {value}.")
    check_sampler(sampler)
    Guide(guidance_scale, config)
    if config.action_objective == "regression" and (sampler or action_steps):
        raise InputError("sampler, action_steps: this policy is behaviour cloning (regression); it has no chain.")


def _check_one_pass(model_type: str, **options) -> None:
    """Raises an `InputError` for an option of denoising that was given to a model without any."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name}: a {model_type} policy answers in one pass; it has no denoising steps.")


def imagines(model) -> bool:
    """Whether the policy can show the future that its actions go with; behaviour cloning cannot."""
    return getattr(model, "imagines_video", model.config.action_objective == "diffusion")


def plan(
    model,
    processor,
    inputs,
    num_inference_steps: int | None = None,
    temperature: float | None = None,
    video_temperature: float | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    return_video: bool = False,
    scheduler=None,
    callback_on_step_end: Callable | None = None,
    sampler: str | None = None,
    action_steps: int | None = None,
    guidance_scale: float | None = None,
    committed_actions: torch.Tensor | None = None,
    num_samples: int = 1,
) -> Plan:
    """One batched plan.

    Args:
        inputs: What the processor returned for a batch of observations, or the model's `frame_memory`.
        num_inference_steps: Denoising steps; `None` here and below: the model's own default.
        temperature, video_temperature: Of the action bins and of the video codes; 0 takes the likeliest.
        generator: Of every random draw; or a list, one per observation.
        return_video: Decode the imagined future too.
        scheduler: Replaces the model's own. callback_on_step_end: as in `sample_actions`.
        sampler: The name of one of `hf_vpdd.schedulers.SAMPLERS`, instead of `scheduler`.
        action_steps: Passes of the action head alone after `num_inference_steps` for the video; `None`: one chain.
        guidance_scale: Over the instruction; 1 is none.
        committed_actions: float (B, n, A) in the robot's units, n < chunk: the first actions, decided already.
        num_samples: Plans of each observation, which is encoded once; B * num_samples rows come out, those of one
            observation one after the other (and `generator`, if a list, is as long).

    Raises:
        InputError: An argument out of its range, or a video is asked of a policy that predicts none.
    """
    check_sampling(
        model.config,
        num_inference_steps,
        temperature,
        video_temperature,
        sampler,
        action_steps,
        1.0 if guidance_scale is None else guidance_scale,
    )
    if return_video and not imagines(model):
        raise InputError("return_video: this policy has learned actions alone (regression); it imagines no future.")
    if not hasattr(model.config, "num_train_timesteps"):
        _check_one_pass(model.config.model_type, scheduler=scheduler, callback_on_step_end=callback_on_step_end)
    options = {
        "num_inference_steps": num_inference_steps,
        "temperature": temperature,
        "video_temperature": video_temperature,
        "generator": generator,
        "scheduler": scheduler,
        "callback_on_step_end": callback_on_step_end,
        "sampler": sampler,
        "action_steps": action_steps,
        "guidance_scale": guidance_scale,
    }
    if committed_actions is not None:
        options["committed_actions"] = _committed_bins(processor, committed_actions).to(model.device)
    if num_samples != 1:
        if not hasattr(model, "sample_video"):
            raise InputError(f"num_samples: a {model.config.model_type} policy draws no futures.")
        options["num_samples"] = num_samples
    tensors = model_inputs(model, inputs, policy_inputs(model, processor, inputs))
    asks_for_video = return_video and hasattr(model, "imagines_video")  # others make it anyway, with the actions
    if asks_for_video:
        options["return_video"] = True
    if model.config.action_objective == "diffusion":
        options["action_bin_mask"] = processor.valid_bin_mask.to(model.device)
    output = model.sample_actions(**tensors, **{name: value for name, value in options.items() if value is not None})
    actions = processor.post_process_actions(output.actions, model.config.action_objective)
    video = None
    if return_video:
        pixels = output.video if asks_for_video else model.model.decode_video(output.video_codes)
        video = side_by_side(processor.post_process_video(pixels))
    return Plan(actions=actions, video=video, video_codes=getattr(output, "video_codes", None))


def imagine(
    model,
    inputs,
    num_clips: int = 1,
    after: torch.LongTensor | None = None,
    num_inference_steps: int | None = None,
    video_temperature: float | None = None,
    guidance_scale: float | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    scheduler=None,
    callback_on_step_end: Callable | None = None,
    num_samples: int = 1,
) -> torch.LongTensor:
    """Video without actions: int64 codes (B * num_samples, V, clips * t, h, w).

    Args:
        inputs: What the processor returned for a batch of observations; a state is not needed.
        num_clips: Clips to imagine, each from the one before.
        after: Codes of clips that were imagined already (B, V, clips * t, h, w): goes on from the last of them instead
            of the observed frames, and returns all of them.
        num_samples: Futures of each observation, one after the other; with `after`, these are the samples already.
        The others as in `plan`.
    """
    check_sampling(
        model.config,
        num_inference_steps,
        video_temperature=video_temperature,
        guidance_scale=1.0 if guidance_scale is None else guidance_scale,
    )
    tensors = model_inputs(model, inputs, ["pixel_values", "input_ids", "attention_mask"])
    if after is not None:
        last = after[:, :, -model.config.latent_shape[0] :].contiguous()
        pixels = model.model.decode_video(last).to(model.dtype) if model.config.image_channels else None
        tensors |= {"history_codes": last, "pixel_values": pixels}
        words = ("input_ids", "attention_mask")
        tensors |= {name: repeat_rows(tensors[name], len(last) // len(tensors[name])) for name in words}
        num_samples = 1
    options = {
        "num_inference_steps": num_inference_steps,
        "temperature": video_temperature,
        "guidance_scale": guidance_scale,
        "generator": generator,
        "scheduler": scheduler,
        "callback_on_step_end": callback_on_step_end,
    }
    options = {name: value for name, value in options.items() if value is not None}
    codes = model.sample_video(**tensors, num_clips=num_clips, num_samples=num_samples, **options)
    return codes if after is None else torch.cat((after, codes), dim=2)


def side_by_side(frames: torch.Tensor) -> torch.Tensor:
    """(B, V, T, H, W, 3) -> (B, T, H, V * W, 3)."""
    return torch.cat(frames.unbind(1), dim=-2)


def model_inputs(model, inputs, names) -> dict[str, torch.Tensor]:
    """The named inputs on the model's device and in its precision; an `InputError` names what is missing."""
    missing = [name for name in names if name not in inputs]
    if missing:
        what = {
            "input_ids": "instruction", "attention_mask": "instruction", "task_ids": "instruction",
            "goal_pixel_values": "goal",
        }.get(missing[0], missing[0])  # fmt: skip
        raise InputError(f"{what}: missing; this policy needs it in every observation.")
    tensors = {name: inputs[name].to(model.device) for name in names}
    made = _ENCODED.values()  # by the model itself, of the right precision
    return {
        name: tensor.to(model.dtype) if tensor.is_floating_point() and name not in made else tensor
        for name, tensor in tensors.items()
    }


# inputs of `forward` that stand for others, as a `frame_memory` gives them
_ENCODED = {"pixel_values": "image_tokens", "input_ids": "text_embeds", "attention_mask": "text_embeds"}


def policy_inputs(model, processor, inputs) -> list[str]:
    """Names of the tensors that go to the policy: the processor's, or what stands for them in `inputs`."""
    names = [name for name in processor.model_input_names if name != "state" or model.config.state_dim]
    there = [name if name in inputs or _ENCODED.get(name) not in inputs else _ENCODED[name] for name in names]
    # pixels beside tokens: a forecast takes its brightness from them
    return list(dict.fromkeys([*there, *(name for name in _ENCODED.values() if name in inputs)]))


def _committed_bins(processor, actions) -> torch.Tensor:
    """(B, n, A) in the robot's units -> int64 bins. What a plan returned comes back as the bins it was made of (of
    poses: as bins of the same pose)."""
    actions, width, chunk = torch.as_tensor(actions), processor.robot_action_dim, processor.chunk_size
    if processor.action_objective != "diffusion":
        raise InputError("committed_actions: this policy is behaviour cloning (regression); it completes no plan.")
    if actions.ndim != 3 or actions.shape[2] != width or actions.shape[1] >= chunk:
        raise InputError(
            f"committed_actions: expected (B, n, {width}) with n < {chunk}, the chunk; got {tuple(actions.shape)}."
        )
    if not bool(torch.isfinite(actions).all()):
        raise InputError("committed_actions: not all are finite.")
    return processor.encode_actions(actions)


def make_generator(seed: int | None, device: torch.device) -> torch.Generator | None:
    """A generator on the model's device, or None (torch's global one) without a seed."""
    return None if seed is None else torch.Generator(device=device).manual_seed(seed)
