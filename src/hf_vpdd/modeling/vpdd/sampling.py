"""From noise to video and actions: the one loop behind `sample_video` and `sample_actions`, and what it caches.

A plan encodes instruction and current frame once, then evaluates the network at every step of a sampler (see
`hf_vpdd.schedulers`). Video and actions are one chain: a step evaluates the trunk on the noisy codes, the action head
on its states and the noisy actions, both at the same noise level, and then steps each modality by itself. One t fits
both: a sampler leaves the share gamma_bar of the next timestep masked in each, and an adaptive one, which does not,
names for every row the t that belongs to the masks of both together. What is known beforehand (committed actions)
never enters the sampler: it stands in the network's input, visible, at every step.

Two phases (`action_steps`): first the video chain alone, the action head not run at all; then the states and the
timestep of its last evaluation are held, what the head makes of them is computed once (the keys and values of a causal
head's prefix, exact), and the actions are unmasked in `action_steps` passes that cost no more than their own tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real

import torch
from transformers.utils import ModelOutput

from ...errors import InputError
from ...schedulers import MaskAndReplaceScheduler, build_sampler
from .conditioning import repeat_rows, time_table


@dataclass
class VPDDSampleOutput(ModelOutput):
    """`actions` (B, chunk, A): int64 bins, or floats in [-1, 1] for `"regression"`.

    `video_codes` int64 (B, V, t, h, w): the imagined future; None for `"regression"`.
    """

    actions: torch.Tensor | None = None
    video_codes: torch.LongTensor | None = None


@dataclass
class Modality:
    """Tokens on their way from MASK to clean.

    Args:
        sample: int64 (B, n, ...), the present state. num_classes: MASK is this number.
        temperature: of the draws; 0 takes the likeliest. grid: (h, w) of a picture, for samplers that look at places.
        fixed: how many of the n are known, from the first on; these are left alone.
    """

    sample: torch.LongTensor
    num_classes: int
    temperature: float
    grid: tuple[int, int] | None = None
    fixed: int = 0
    guess: torch.LongTensor | None = None  # x_0 of the latest step, (B, free tokens)

    @property
    def free(self) -> torch.LongTensor:
        """The tokens that are sampled, (B, L)."""
        return self.sample[:, self.fixed :].flatten(1)

    def put(self, tokens: torch.LongTensor) -> None:
        """The inverse of `free`."""
        free = self.sample[:, self.fixed :]
        self.sample = torch.cat((self.sample[:, : self.fixed], tokens.view_as(free)), dim=1)

    def step(self, sampler: MaskAndReplaceScheduler, logits: torch.Tensor, timestep: torch.Tensor, generator) -> None:
        """logits (B, n, ..., num_classes)."""
        output = sampler.step(
            logits[:, self.fixed :].reshape(len(logits), -1, self.num_classes),
            timestep,
            self.free,
            self.num_classes,
            temperature=self.temperature,
            generator=generator,
            grid=self.grid,
        )
        self.guess = output.pred_original_sample
        self.put(output.prev_sample)

    def fill_with_guess(self) -> None:
        """An interrupted chain: what is still masked takes the network's latest guess."""
        self.put(torch.where(self.free == self.num_classes, self.guess, self.free))


def denoise(
    sampler: MaskAndReplaceScheduler,
    steps: int,
    modalities: dict[str, Modality],
    evaluate: Callable[[torch.LongTensor], dict[str, torch.Tensor]],
    generator,
    on_step_end: Callable[[torch.Tensor], bool],
) -> None:
    """The loop. Changes the modalities in place.

    Args:
        steps: at most so many network evaluations (an adaptive sampler may need fewer).
        evaluate: timesteps int64 (B,) -> logits of each modality, in the order in which they are stepped.
        on_step_end: called with the timestep after each step; True ends the chain early.
    """
    device = next(iter(modalities.values())).sample.device
    sampler.set_timesteps(steps, device=device)
    for timestep in sampler.timesteps:
        masked = torch.cat([part.free == part.num_classes for part in modalities.values()], dim=1)
        if sampler.adaptive and not bool(masked.any()):
            break
        logits = evaluate(sampler.network_timesteps(timestep, masked.float().mean(1)))
        for name, part in modalities.items():
            part.step(sampler, logits[name], timestep, generator)
        if on_step_end(timestep):
            for part in modalities.values():
                part.fill_with_guess()
            break


class Guide:
    """Classifier-free guidance over language (arXiv 2207.12598): every row twice, with its instruction and without.

    logits = without + scale * (with - without). At scale 1 nothing is doubled and nothing is computed.
    """

    def __init__(self, scale: float, config):
        if not (isinstance(scale, Real) and 0 <= scale < float("inf")):
            raise InputError(f"guidance_scale: must be a number from 0 up (1: no guidance), got {scale!r}.")
        self.scale = scale
        self.active = scale != 1
        if self.active and not config.instruction_dropout:
            raise InputError(
                f"guidance_scale: {scale} asks for guidance over the instruction, but this model was trained with "
                "instruction_dropout = 0 and never saw a plan without one. Use 1, or train with instruction_dropout."
            )
        if self.active and config.action_objective == "regression":
            raise InputError("guidance_scale: behaviour cloning (regression) has no distribution to guide; use 1.")

    def double(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        return tensor if tensor is None or not self.active else torch.cat((tensor, tensor))

    def double_prompt(self, prompt: torch.Tensor) -> torch.Tensor:
        return prompt if not self.active else torch.cat((prompt, torch.zeros_like(prompt)))

    def combine(self, logits: torch.Tensor) -> torch.Tensor:
        if not self.active:
            return logits
        given, without = logits.chunk(2)
        return without + self.scale * (given - without)


class _Callback:
    """Counts steps over all phases and clips, hands the tensors out, and takes back what the callback changed."""

    def __init__(self, function: Callable | None, shapes: dict[str, tuple[int, ...]]):
        self.function, self.shapes = function, shapes
        self.index, self.interrupted = 0, False

    def __call__(self, timestep: torch.Tensor, modalities: dict[str, Modality]) -> bool:
        if self.function is None:
            return False
        tensors = {name: part.sample.view(self.shapes[name]) for name, part in modalities.items()}
        returned = self.function(self.index, timestep, tensors) or {}
        for name, part in modalities.items():
            if name in returned:
                part.sample = returned[name].view_as(part.sample)
        self.index += 1
        self.interrupted = bool(returned.get("interrupt", False))
        return self.interrupted


class VideoSamplingMixin:
    """`sample_video`, for models with a `VPDDModel` in `model` and a `scheduler`."""

    def compile_steps(self, **options) -> None:
        """`torch.compile`s in place what every step of a plan evaluates, each as one graph; options as there.

        Shapes are fixed by the configuration, so only another batch size compiles again.
        """
        options = {"fullgraph": True, **options}
        self.model.trunk.compile(**options)
        if (head := getattr(self, "action_head", None)) is not None:
            head.encode_forecast = torch.compile(head.encode_forecast, **options)
            head.decode = torch.compile(head.decode, **options)

    @torch.no_grad()
    def sample_video(
        self,
        pixel_values: torch.Tensor | None = None,
        history_codes: torch.LongTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        num_inference_steps: int = 4,
        temperature: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        scheduler: MaskAndReplaceScheduler | None = None,
        sampler: str | None = None,
        guidance_scale: float = 1.0,
        num_clips: int = 1,
        callback_on_step_end: Callable[[int, torch.Tensor, dict], dict | None] | None = None,
        num_samples: int = 1,
    ) -> torch.LongTensor:
        """Imagine the future: int64 codes (B * num_samples, V, num_clips * t, h, w). Decode each clip with
        `model.decode_video`.

        Args:
            num_inference_steps: network evaluations for each clip. temperature: of the codes; 0 takes the likeliest.
            scheduler: a sampler object, or sampler: the name of one (`hf_vpdd.schedulers.SAMPLERS`).
            guidance_scale: over the instruction; needs a model trained with `instruction_dropout`.
            num_clips: each clip after the first is predicted from the one before, as if it had been seen: clip i ends
                i * `predict_ahead` environment steps ahead.
            callback_on_step_end: as in `sample_actions`, with "video_codes" of the present clip.
            num_samples: futures of each observation, one after the other; the observation is encoded once for all.
        """
        if self.config.action_objective == "regression":
            raise InputError("sample_video: this policy is behaviour cloning (regression); it imagines no future.")
        if not (isinstance(num_clips, Integral) and num_clips >= 1):
            raise InputError(f"num_clips: must be a whole number from 1 up, got {num_clips!r}.")
        check_samples(num_samples, self.config)
        check_steps("num_inference_steps", num_inference_steps, self.config)
        guide = Guide(guidance_scale, self.config)
        scheduler = choose_sampler(self, scheduler, sampler)
        codes, prompt = self.model.encode_inputs(pixel_values, history_codes, input_ids, attention_mask, prompt_embeds)
        prompt, views = guide.double_prompt(prompt), codes.shape[1]
        notify = _Callback(callback_on_step_end, {"video_codes": (len(codes) * num_samples, *codes.shape[1:])})
        clips: list[torch.Tensor] = []
        while len(clips) < num_clips:
            if clips and self.config.image_channels:  # this trunk reads pixels too
                pixel_values = self.model.decode_video(codes).to(self.model.vqvae.dtype)
            context = self.model.encode_context(prompt, guide.double(codes), guide.double(pixel_values))
            if not clips:  # what was seen is the same for all samples; what follows is each one's own
                context = repeat_rows(context, num_samples, views)
                codes, prompt = repeat_rows(codes, num_samples), repeat_rows(prompt, num_samples)
            tabulate(scheduler, num_inference_steps, codes.device, (self.model.trunk.timestep_embed, context))
            video = new_video(self, scheduler, codes, temperature)

            def evaluate(timesteps, video=video, context=context):
                output = self.model.denoise(guide.double(video.sample), guide.double(timesteps), context)
                return {"video_codes": guide.combine(output.logits)}

            parts = {"video_codes": video}
            denoise(
                scheduler, num_inference_steps, parts, evaluate, generator, lambda t, parts=parts: notify(t, parts)
            )
            codes = video.sample.view_as(codes)
            clips.append(codes)
            if notify.interrupted:
                break
        return torch.cat(clips, dim=2)


class PolicySamplingMixin(VideoSamplingMixin):
    """`sample_actions`, for models that have an `action_head` besides."""

    @torch.no_grad()
    def sample_actions(
        self,
        pixel_values: torch.Tensor | None = None,
        history_codes: torch.LongTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        num_inference_steps: int = 4,
        temperature: float = 0.0,
        video_temperature: float = 1.0,
        action_bin_mask: torch.BoolTensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        scheduler: MaskAndReplaceScheduler | None = None,
        sampler: str | None = None,
        action_steps: int | None = None,
        guidance_scale: float = 1.0,
        committed_actions: torch.LongTensor | None = None,
        callback_on_step_end: Callable[[int, torch.Tensor, dict], dict | None] | None = None,
        num_samples: int = 1,
    ) -> VPDDSampleOutput:
        """Plan: denoise the future clip and the action chunk together.

        Args:
            num_inference_steps: network evaluations (the official sampler takes 100; the small policy needs 4).
            temperature: of the action bins; 0 takes the likeliest. video_temperature: of the video codes.
            action_bin_mask: bool (A, bins), False for bins that a dimension does not use (see the processor).
            generator: of every random draw; or a list, one for each row (of what comes out).
            scheduler: a sampler object, or sampler: the name of one (`hf_vpdd.schedulers.SAMPLERS`).
            action_steps: two phases, see the head of this file: `num_inference_steps` for the video alone, then so
                many passes of the action head alone. None: one joint chain.
            guidance_scale: over the instruction; needs a model trained with `instruction_dropout`.
            committed_actions: int64 bins (B, n, A), n < chunk_size: the first steps of the chunk are decided already
                (by the plan that is still being carried out) and the rest is sampled to go with them.
            callback_on_step_end: called with (step index, timestep, {"video_codes", "actions"}) after each step; what
                it returns, a dictionary or None, replaces these tensors, and ends the chain if "interrupt" is true.
            num_samples: plans of each observation, one after the other: B * num_samples rows come out. The observation
                is encoded once for all of its plans.
        """
        config, regression = self.config, self.config.action_objective == "regression"
        check_steps("num_inference_steps", num_inference_steps, config)
        check_steps("action_steps", action_steps, config)
        check_samples(num_samples, config)
        guide = Guide(guidance_scale, config)
        if regression and (action_steps or committed_actions is not None or sampler is not None):
            raise InputError(
                "sampler, action_steps, committed_actions: behaviour cloning (regression) has no chain to sample."
            )
        scheduler = choose_sampler(self, scheduler, sampler)
        codes, prompt = self.model.encode_inputs(
            pixel_values,
            history_codes,
            input_ids,
            attention_mask,
            prompt_embeds,
            views=config.num_views,
            state=state,
            committed_actions=committed_actions,
        )

        # what stays the same at every step, and for every sample
        prompt, pixels = guide.double_prompt(prompt), guide.double(pixel_values)
        context = self.model.encode_context(prompt, guide.double(codes), pixels)
        head_context = self.head_context(context, prompt, guide.double(state), pixels, codes.shape[1])
        head_context = repeat_rows(head_context, num_samples)
        context, codes = repeat_rows(context, num_samples, codes.shape[1]), repeat_rows(codes, num_samples)
        if committed_actions is not None:
            committed_actions = repeat_rows(committed_actions, num_samples)
        video = new_video(self, scheduler, codes, video_temperature)
        actions = new_actions(self, scheduler, len(codes), temperature, committed_actions, codes.device)
        tabulate(
            scheduler,
            num_inference_steps,
            codes.device,
            (self.model.trunk.timestep_embed, context),
            (self.action_head.timestep_embed, head_context),
        )

        def look(timesteps):
            output = self.model.denoise(guide.double(video.sample), guide.double(timesteps), context)
            forecast = (guide.double(timesteps), output.hidden_states, head_context)
            return guide.combine(output.logits), forecast

        def act(forecast):
            logits = guide.combine(self.action_head.decode(guide.double(actions.sample), forecast))
            if action_bin_mask is not None:
                logits = logits.masked_fill(~action_bin_mask, torch.finfo(logits.dtype).min)
            return logits

        if regression:
            timesteps = torch.full((len(codes),), config.num_train_timesteps - 1, device=codes.device)
            forecast = self.action_head.encode_forecast(*look(timesteps)[1])
            return VPDDSampleOutput(actions=self.action_head.decode(actions.sample, forecast).clamp(-1, 1))

        notify = _Callback(callback_on_step_end, {"video_codes": codes.shape, "actions": actions.sample.shape})
        parts = {"video_codes": video, "actions": actions}

        def on_step_end(timestep):
            return notify(timestep, parts)

        if action_steps is None:

            def joint(timesteps):
                video_logits, forecast = look(timesteps)
                return {"video_codes": video_logits, "actions": act(self.action_head.encode_forecast(*forecast))}

            denoise(scheduler, num_inference_steps, parts, joint, generator, on_step_end)
        else:
            held: list = []

            def video_only(timesteps):
                video_logits, held[:] = look(timesteps)
                return {"video_codes": video_logits}

            denoise(scheduler, num_inference_steps, {"video_codes": video}, video_only, generator, on_step_end)
            forecast = self.action_head.encode_forecast(*held)
            # an interrupted plan still owes its actions: one pass
            passes = 1 if notify.interrupted else action_steps
            denoise(
                scheduler, passes, {"actions": actions}, lambda _: {"actions": act(forecast)}, generator, on_step_end
            )
        return VPDDSampleOutput(actions=actions.sample, video_codes=video.sample.view_as(codes))


def choose_sampler(model, scheduler: MaskAndReplaceScheduler | None, name: str | None) -> MaskAndReplaceScheduler:
    """The sampler given as an object, or by name with the model's diffusion; the model's own if neither is."""
    if scheduler is not None and name is not None:
        raise InputError("sampler and scheduler: give a name or an object, not both.")
    if name is not None:
        return build_sampler(name, model.scheduler.config)
    return model.scheduler if scheduler is None else scheduler


def check_steps(name: str, steps: int | None, config) -> None:
    if steps is not None and not (isinstance(steps, Integral) and 1 <= steps <= config.num_train_timesteps):
        raise InputError(f"{name}: must lie in 1..{config.num_train_timesteps}, got {steps!r}.")


def check_samples(count: int, config) -> None:
    if not (isinstance(count, Integral) and count >= 1):
        raise InputError(f"num_samples: must be a whole number from 1 up, got {count!r}.")
    if count > 1 and config.action_objective == "regression":
        raise InputError("num_samples: behaviour cloning (regression) draws nothing at random; all would be the same.")


def tabulate(scheduler: MaskAndReplaceScheduler, steps: int, device: torch.device, *pairs: tuple) -> None:
    """Embeds the timesteps of a plan once for all its steps. pairs: of a `timestep_embed` and the context of its
    module, which gets a `time_table`."""
    scheduler.set_timesteps(steps)
    timesteps = torch.arange(len(scheduler)) if scheduler.adaptive else scheduler.timesteps
    for embedding, context in pairs:
        context["time_table"] = time_table(embedding, timesteps.to(device), len(scheduler))


def new_video(model, scheduler: MaskAndReplaceScheduler, codes: torch.Tensor, temperature: float) -> Modality:
    """All MASK, (B, V, L), for a clip like `codes` (B, V, t, h, w)."""
    size = model.config.vqvae_config.codebook_size
    noise = scheduler.init_noise(codes.flatten(2).shape, size, codes.device)
    return Modality(noise, size, temperature, grid=tuple(codes.shape[-2:]))


def new_actions(
    model,
    scheduler: MaskAndReplaceScheduler,
    batch: int,
    temperature: float,
    committed: torch.Tensor | None,
    device: torch.device,
) -> Modality:
    """All MASK, (B, chunk, A), but for the committed ones, (B, n, A)."""
    config, bins = model.config, model.config.num_action_bins
    noise = scheduler.init_noise((batch, config.chunk_size, config.action_dim), bins, device)
    actions = Modality(noise, bins, temperature)
    if committed is None:
        return actions
    if committed.ndim != 3 or committed.shape[1] >= config.chunk_size or committed.shape[2] != config.action_dim:
        raise InputError(
            f"committed_actions: expected (B, n, {config.action_dim}) with n < {config.chunk_size}, the chunk; got "
            f"{tuple(committed.shape)}."
        )
    if (
        committed.is_floating_point()
        or committed.numel()
        and not 0 <= int(committed.min()) <= int(committed.max()) < bins
    ):
        raise InputError(f"committed_actions: expected action bins, integers in 0..{bins - 1}.")
    fixed = committed.shape[1]
    return replace(actions, sample=torch.cat((committed.to(device), noise[:, fixed:]), dim=1), fixed=fixed)
