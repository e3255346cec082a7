"""RobotPolicy: a loaded model as a controller. `reset()` at the start of episodes, `select_action(obs)` at every step.

policy = RobotPolicy.from_pretrained("some-org/vpdd-metaworld")
policy.reset()
action = policy.select_action({"images": {"corner2": frame}, "state": state, "instruction": "press the button"})
"""

import os
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

from .checkpoint_files import require_checkpoint
from .errors import InputError
from .inference import check_is_policy_checkpoint, check_pair, check_sampling, make_generator, plan
from .registration import DEFAULT_CHECKPOINT, register
from .value_planning import as_ranker, check_candidates, plan_by_value


@dataclass
class PolicyOutput:
    """What `RobotPolicy.predict` returns.

    Args:
        actions: float32 (B, chunk, A) in the robot's units.
        video: uint8 (B, T, H, W, 3), the future the model imagined (cameras side by side); None unless asked for.
        values: float32 (B, N), what the value model thinks of each candidate's end; None without one, as the rest.
        chosen: int64 (B,), the candidate of the largest value, whose actions and video these are.
        candidate_actions: float32 (B, N, chunk, A).
        candidate_videos: uint8 (B, N, T, H, W, 3); None unless asked for.
    """

    actions: np.ndarray
    video: np.ndarray | None = None
    values: np.ndarray | None = None
    chosen: np.ndarray | None = None
    candidate_actions: np.ndarray | None = None
    candidate_videos: np.ndarray | None = None


class RobotPolicy:
    """Controls one robot or many at once.

    Every environment has its own history and its own queue of planned actions. `select_action` plans anew only for the
    environments whose queue is empty, all of them in one batched call of the model. A model with a `frame_memory`
    (GR-1) encodes every frame and every instruction once; call `forget_all` after changing its weights.

    Args:
        model: A policy, e.g. `VPDDForRobotPolicy`. It is switched to evaluation mode.
        processor: Its processor.
        execute: Steps of a plan to carry out before planning again. Default: the processor's, else the whole chunk.
        num_inference_steps, temperature, video_temperature: Of the sampler; `None`: the model's defaults.
        sampler, action_steps, guidance_scale: As in [`hf_vpdd.inference.plan`].
        real_time: Commit what the old plan still holds. After `execute` steps of a plan, the next one is made with the
            `chunk - execute` actions not yet carried out as its fixed beginning (arXiv 2506.07339): on a robot these
            run while the network computes, and the new plan continues them without a jump. What is seen now acts that
            many steps later.
        seed: Makes everything that follows reproducible. `None`: torch's global generator.
        value_model: Value-guided planning (`hf_vpdd.value_planning`): folder or Hub id of a V-PTR value model, (model,
            processor) of one, or a `ValueRanker`. It judges the end of every imagined future.
        num_candidates: Futures to imagine for each plan, in one batched call; the actions of the one with the largest
            value are carried out.
        value_goals: What the instructions ask for, for a value model that reads no words: demonstrations (a dataset)
            or {instruction: image}, see `ValueRanker`.
    """

    def __init__(
        self,
        model,
        processor,
        execute: int | None = None,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        video_temperature: float | None = None,
        seed: int | None = None,
        sampler: str | None = None,
        action_steps: int | None = None,
        guidance_scale: float | None = None,
        real_time: bool = False,
        value_model=None,
        num_candidates: int = 1,
        value_goals=None,
    ):
        check_pair(model, processor)
        self.model = model.eval()
        self.processor = processor
        chunk = model.config.chunk_size
        execute = next(steps for steps in (execute, processor.execute, chunk) if steps is not None)
        if not 1 <= execute <= chunk:
            raise InputError(f"execute: must lie in 1..{chunk} (the steps of a plan), got {execute}.")
        self.execute = execute
        self.sampling = {
            "num_inference_steps": num_inference_steps,
            "temperature": temperature,
            "video_temperature": video_temperature,
        }
        # only if given: results recorded before these options existed can still be told apart and resumed
        options = {"sampler": sampler, "action_steps": action_steps, "guidance_scale": guidance_scale}
        self.sampling |= {name: value for name, value in options.items() if value is not None}
        check_sampling(model.config, **self.sampling)
        if real_time and model.config.action_objective == "regression":
            raise InputError("real_time: this policy is behaviour cloning (regression); it completes no plan.")
        self.real_time = real_time
        check_candidates(model, num_candidates, self.sampling, ranked=value_model is not None)
        if value_model is None and value_goals is not None:
            raise InputError("value_goals: they are for a value_model, which is missing.")
        self.num_candidates, self.ranker = num_candidates, None
        if value_model is not None:
            self.ranker = as_ranker(value_model, value_goals, model.device)
            self.ranker.check_policy(model, processor, num_candidates)
        self._left: dict[int, np.ndarray] = {}  # of each environment's plan, what `execute` leaves over
        self._seed = seed
        self._generator = make_generator(seed, model.device)
        self._queues: dict[int, deque] = {}
        self._history: dict[int, deque[_Moment]] = {}
        self._memory = model.frame_memory(processor) if hasattr(model, "frame_memory") else None

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str = "auto",
        hub_options: Mapping | None = None,
        base_model: str | os.PathLike | None = None,
        **kwargs,
    ) -> "RobotPolicy":
        """Loads weights and processor from one folder or Hub repository, or a LoRA adapter with its base and the
        adapter's own processor.

        Args:
            path: Folder or repository id. Default: the checkpoint that ships with the package.
            device: Default: a GPU if there is one.
            dtype: Of the weights; "auto" is the dtype they were saved in.
            hub_options: `revision`, `token`, `cache_dir`, ... for the download.
            base_model: The base of an adapter, if it is not where it was in training.
            kwargs: The other arguments of `RobotPolicy`.
        """
        path = str(DEFAULT_CHECKPOINT if path is None else path)
        require_checkpoint(path, hub_options)
        register()  # the command line imports the package without registering anything
        options = dict(hub_options or {})
        if base_model is not None:
            options["base_model"] = base_model
        model = AutoModel.from_pretrained(path, dtype=dtype, **options)
        check_is_policy_checkpoint(model)
        processor = AutoProcessor.from_pretrained(path, **dict(hub_options or {}))
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), processor, **kwargs)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def to(self, device: str | torch.device) -> "RobotPolicy":
        """Moves the model; a seeded generator starts again from its seed on the new device."""
        self.model.to(device)
        if self.ranker is not None:
            self.ranker.to(device)
        self.forget_all()
        self._generator = make_generator(self._seed, self.model.device)
        return self

    def seed(self, seed: int | None) -> None:
        """From here on, the same observations give the same actions again."""
        self._seed = seed
        self._generator = make_generator(seed, self.model.device)

    def reset(self, env_ids: int | Sequence[int] | None = None) -> None:
        """Forgets history and planned actions of these environments; of all, if none are named."""
        named = [env_ids] if isinstance(env_ids, int) else env_ids
        for env_id in [*self._history, *self._queues] if named is None else named:
            self._queues.pop(env_id, None)
            self._left.pop(env_id, None)
            if self._history.pop(env_id, None) is not None:
                self.forget([env_id])

    def forget(self, owners: Iterable[Hashable]) -> None:
        """Drops what was encoded of the frames of these episodes (see `predict`); harmless where nothing was."""
        if self._memory is not None:
            self._memory.forget(owners)

    def forget_all(self) -> None:
        """Drops whatever was encoded: frames and instructions."""
        if self._memory is not None:
            self._memory.clear()

    def select_action(self, observations, env_ids: Sequence[int] | None = None) -> np.ndarray:
        """One action per environment. Call it at every environment step.

        Args:
            observations: One {"images": {camera: (H,W,3) uint8}, "state": (Ds,), "instruction": str}, or a list with
                one per environment. Of an environment whose plan is not used up, only the images (and states, if the
                model looks back at these too) are read, and these only if the model looks at more than one frame.
            env_ids: Which environments these are (any distinct integers). Default: 0, 1, 2, ...

        Returns:
            float32 (A,) for one observation, (B, A) for a list, in the robot's units.
        """
        single = isinstance(observations, Mapping)
        observations = [observations] if single else list(observations)
        env_ids = list(range(len(observations))) if env_ids is None else list(env_ids)
        if not observations or len(set(env_ids)) != len(observations) or len(env_ids) != len(observations):
            raise InputError(
                f"env_ids: expected one distinct id for each of {len(observations)} observations, got {env_ids}."
            )
        if self.processor.history_frames > 1:
            for env_id, obs in zip(env_ids, observations):
                self._remember(env_id, obs)
        empty = [i for i, env_id in enumerate(env_ids) if not self._queues.get(env_id)]
        # who begins an episode has nothing to commit, and plans apart from who goes on
        goes_on = [i for i in empty if env_ids[i] in self._left]
        for group in ([i for i in empty if i not in goes_on], goes_on):
            if not group:
                continue
            output = self.predict(
                [self._with_history(env_ids[i], observations[i]) for i in group],
                committed_actions=np.stack([self._left[env_ids[i]] for i in group]) if group is goes_on else None,
            )
            for i, chunk in zip(group, output.actions):
                self._queues[env_ids[i]] = deque(chunk[: self.execute])
                if self.real_time and self.execute < len(chunk):
                    self._left[env_ids[i]] = chunk[self.execute :]
        actions = np.stack([self._queues[env_id].popleft() for env_id in env_ids])
        return actions[0] if single else actions

    @torch.inference_mode()
    def predict(
        self,
        observations,
        return_video: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        committed_actions: np.ndarray | None = None,
        return_candidates: bool = False,
    ) -> PolicyOutput:
        """Whole plans for a batch of observations, without touching history or queues.

        Args:
            observations: One observation or a list of them, as in `select_action`. With `history_frames` > 1 an image
                entry may hold the history, oldest first, (T,H,W,3); what is missing is black, or for a processor with
                `state_history` simply missing, and its state is then (T,Ds). "frame_keys", a list of (episode, step)
                for each of the T frames, lets a model with a `frame_memory` encode each frame once.
            return_video: Decode the imagined future too.
            generator: Of the random draws of this call, instead of the policy's own. With a list, one per observation,
                a plan does not depend on which others are made in the same call.
            committed_actions: float (B, n, A) in the robot's units, n < chunk: the plans begin with these.
            return_candidates: With a value model: decode the futures of all candidates.
        """
        batch = [observations] if isinstance(observations, Mapping) else list(observations)
        if self._memory is None:
            inputs = self.processor.process_observations(batch)
        else:
            inputs = self._memory.inputs(batch, with_pixels=return_video)
        if return_candidates and self.ranker is None:
            raise InputError("return_candidates: there are none without a value_model.")
        options = {
            "generator": self._generator if generator is None else generator,
            "return_video": return_video,
            "committed_actions": committed_actions,
            **self.sampling,
        }
        if self.ranker is None:
            result = plan(self.model, self.processor, inputs, **options)
        else:
            result = plan_by_value(
                self.model,
                self.processor,
                inputs,
                self.ranker,
                [str(obs["instruction"]) for obs in batch],
                self.num_candidates,
                return_candidates=return_candidates,
                **options,
            )
        found = {field.name: getattr(result, field.name) for field in fields(PolicyOutput)}
        return PolicyOutput(**{name: None if x is None else x.cpu().numpy() for name, x in found.items()})

    def _remember(self, env_id: int, obs: Mapping) -> None:
        images, state = self._images(obs), None
        if getattr(self.processor, "state_history", False) and self.processor.state_dim:
            state = _state(obs)
        span = (self.processor.history_frames - 1) * self.processor.history_stride + 1
        moments = self._history.setdefault(env_id, deque(maxlen=span))
        moments.append(_Moment(moments[-1].step + 1 if moments else 0, images, state))

    def _with_history(self, env_id: int, obs: Mapping) -> Mapping:
        """The observation with, per camera, the list of frames `history_stride` steps apart, oldest first; likewise
        the states where the model looks back at them."""
        if self.processor.history_frames == 1:
            return obs
        newest_first = list(self._history[env_id])[:: -self.processor.history_stride]
        moments = newest_first[::-1][-self.processor.history_frames :]
        obs = {**obs, "images": {camera: [m.images[camera] for m in moments] for camera in moments[-1].images}}
        if moments[-1].state is not None:
            obs["state"] = np.stack([m.state for m in moments])
        if self._memory is not None:
            obs["frame_keys"] = [(env_id, m.step) for m in moments]
        return obs

    def _images(self, obs: Mapping) -> Mapping:
        if not isinstance(obs, Mapping):
            raise InputError(
                "observation: expected a dictionary with 'images', 'instruction' and 'state', got "
                f"{type(obs).__name__}."
            )
        images = obs.get("images")
        if images is not None and not isinstance(images, Mapping) and len(self.processor.cameras) == 1:
            images = {self.processor.cameras[0]: images}
        if not isinstance(images, Mapping) or any(camera not in images for camera in self.processor.cameras):
            has = sorted(map(str, images)) if isinstance(images, Mapping) else type(images).__name__
            raise InputError(
                f"images: expected one frame for each of the cameras {self.processor.cameras}, got {has}."
            )
        # Copies: many cameras write every frame into the same buffer.
        return {camera: _copy(images[camera]) for camera in self.processor.cameras}


@dataclass
class _Moment:
    """What an environment showed: step since its reset, camera -> frame, state."""

    step: int
    images: Mapping
    state: np.ndarray | None


def _state(obs: Mapping) -> np.ndarray:
    if obs.get("state") is None:
        raise InputError("state: missing; this policy looks back at the states, so it needs one at every step.")
    state = obs["state"]
    state = state.detach().cpu() if isinstance(state, torch.Tensor) else state
    return np.array(state)  # a copy, as of the images


def _copy(image):
    return image.clone() if isinstance(image, torch.Tensor) else image.copy() if hasattr(image, "copy") else image
