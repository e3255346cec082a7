"""V-PTR: values from action-less video, then offline RL on the same visual encoder (arXiv 2309.13041).

`VPTRModel` is the encoder f; `VPTRForValuePrediction` adds the intent-conditioned value heads (phase 1, ICVF);
`VPTRForRobotPolicy` holds actor and critic, each with an encoder of its own that starts as f (phases 2 and 3).

Shapes: B batch, E heads, d representation, A action dimensions.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPTextModelWithProjection, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..adapters import AdapterLoadingMixin
from ..saved_files import SavedModel
from .actor_critic import Actor, Bottleneck, Critics, SquashedGaussian
from .configuration_vptr import VPTRConfig
from .encoders import build_encoder
from .ensemble import EnsembleLinear, EnsembleNorm, OwnInitLinear
from .value_heads import build_value_heads


@dataclass
class VPTRModelOutput(ModelOutput):
    """`features` (B, feature_size) of the frames."""

    features: torch.FloatTensor | None = None


@dataclass
class VPTRValueOutput(ModelOutput):
    """`values` (E, B) = V(s, s+, z) of every head, and representations (E, B, d).

    Args:
        phi: of the state. psi: of the outcome. intent_psi: of the intent.
    """

    values: torch.FloatTensor | None = None
    phi: torch.FloatTensor | None = None
    psi: torch.FloatTensor | None = None
    intent_psi: torch.FloatTensor | None = None


@dataclass
class VPTRPolicyOutput(ModelOutput):
    """`actions` (B, 1, A) in (-1, 1), the actor's mode; `loss`, its negative log-likelihood of the labels.

    Args:
        mean, std: (B, A), of the Gaussian before the tanh. values: (E, B), Q of the labels when they are given.
    """

    loss: torch.FloatTensor | None = None
    actions: torch.FloatTensor | None = None
    mean: torch.FloatTensor | None = None
    std: torch.FloatTensor | None = None
    values: torch.FloatTensor | None = None


@dataclass
class VPTRSampleOutput(ModelOutput):
    """`actions` (B, 1, A) in (-1, 1)."""

    actions: torch.FloatTensor | None = None


class VPTRPreTrainedModel(SavedModel, AdapterLoadingMixin, PreTrainedModel):
    config: VPTRConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    _no_split_modules = ["BitPreActivationBottleneckLayer", "ImpalaStack", "CLIPEncoderLayer"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, (EnsembleLinear, EnsembleNorm, OwnInitLinear)):
            module.init_own_parameters()
        elif isinstance(module, nn.Conv2d):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, VPTRForRobotPolicy):
            init.zeros_(module.log_temperature)
        else:
            super()._init_weights(module)

    def set_attn_implementation(self, attn_implementation, **kwargs):
        """Of the towers that are there: the text tower, a backbone."""
        for module in self.modules():
            if isinstance(module, PreTrainedModel) and not isinstance(module, VPTRPreTrainedModel):
                module.set_attn_implementation(attn_implementation, **kwargs)

    def _check_pixels(self, pixel_values: torch.Tensor, name: str = "pixel_values") -> torch.Tensor:
        size, channels = self.config.image_size, self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (channels, size, size):
            raise ValueError(
                f"{name} must be (B, {channels}, {size}, {size}), got {tuple(pixel_values.shape)}: let the processor "
                "resize frames, or set image_size"
            )
        return pixel_values


class VPTRModel(VPTRPreTrainedModel):
    """The visual encoder f, all that phase 1 hands on; with the instruction tower where the config asks for one."""

    def __init__(self, config: VPTRConfig):
        super().__init__(config)
        self.encoder = build_encoder(config)
        self.text_model = CLIPTextModelWithProjection(config.text_config) if config.intent == "text" else None
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> VPTRModelOutput:
        """pixel_values: (B, 3, H, W) in [0, 1], no mean subtracted (spec §1.6)."""
        return VPTRModelOutput(features=self.encoder(self._check_pixels(pixel_values)))


class VPTRForValuePrediction(VPTRPreTrainedModel):
    """Phase 1, ICVF: V(s, s+, z), how soon s leads to the outcome s+ when behaving as the intent z wants."""

    def __init__(self, config: VPTRConfig):
        super().__init__(config)
        self.model = VPTRModel(config)
        self.value_heads = build_value_heads(config)
        self.intent_proj = (
            nn.Linear(config.text_config.projection_dim, config.feature_size) if config.intent == "text" else None
        )
        self.post_init()

    def encode(self, pixel_values: torch.Tensor, name: str = "pixel_values") -> torch.Tensor:
        """Frames (B, 3, H, W) in [0, 1] -> features (B, F)."""
        return self.model.encoder(self._check_pixels(pixel_values, name))

    def embed_intent(self, pixel_values=None, input_ids=None, attention_mask=None, embeds=None) -> torch.Tensor:
        """The intent as features (B, F): a goal image's, or a sentence's (or its embedding's) mapped to them."""
        if self.config.intent == "image":
            if pixel_values is None:
                raise ValueError("this model takes the intent as an image: give intent_pixel_values")
            return self.encode(pixel_values, "intent_pixel_values")
        if embeds is None:
            if input_ids is None:
                raise ValueError("this model takes the intent as text: give input_ids or intent_embeds")
            embeds = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask).text_embeds
        return self.intent_proj(embeds)

    def forward(
        self,
        pixel_values: torch.Tensor,
        goal_pixel_values: torch.Tensor | None = None,
        intent_pixel_values: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        intent_embeds: torch.Tensor | None = None,
    ) -> VPTRValueOutput:
        """
        Args:
            pixel_values: the state s, (B, 3, H, W) in [0, 1]. goal_pixel_values: the outcome s+; the intent if absent.
            intent_pixel_values: the intent z; the outcome if absent. input_ids, attention_mask (B, S), or
                intent_embeds (B, P): the intent of a model with `intent="text"`.
        """
        heads = self.value_heads
        state = self.encode(pixel_values)
        given = intent_pixel_values is not None or self.config.intent == "text"
        intent = self.embed_intent(intent_pixel_values, input_ids, attention_mask, intent_embeds) if given else None
        if goal_pixel_values is None and intent is None:
            raise ValueError("a value needs a goal: give goal_pixel_values, or an intent")
        goal = intent if goal_pixel_values is None else self.encode(goal_pixel_values, "goal_pixel_values")
        phi, psi = heads.represent_state(state), heads.represent_goal(goal)
        intent_psi = psi if intent is None or intent is goal else heads.represent_goal(intent)
        return VPTRValueOutput(heads.value(phi, psi, intent_psi), phi, psi, intent_psi)


class VPTRForRobotPolicy(VPTRPreTrainedModel):
    """Phases 2 and 3: an actor and E critics, each with its own copy of the encoder, none of them shared."""

    def __init__(self, config: VPTRConfig):
        super().__init__(config)
        size = self.condition_size(config)
        self.actor_encoder, self.critic_encoder = build_encoder(config), build_encoder(config)
        self.actor_bottleneck, self.critic_bottleneck = Bottleneck(config), Bottleneck(config)
        self.actor, self.critics = Actor(config, size), Critics(config, size)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.text_model = CLIPTextModelWithProjection(config.text_config) if config.condition == "text" else None
        self.post_init()

    @staticmethod
    def condition_size(config: VPTRConfig) -> int:
        """Width of what tells the networks their task."""
        if config.condition == "text":
            return config.text_config.projection_dim
        return {"task": config.num_tasks, "goal_image": config.feature_size, "none": 0}[config.condition]

    @classmethod
    def from_video_pretrained(cls, path, config: VPTRConfig, **kwargs) -> "VPTRForRobotPolicy":
        """A fresh policy whose two encoders start from phase 1.

        Args:
            path: folder or Hub id of a [`VPTRForValuePrediction`]. config: of the policy, with the same encoder.
            kwargs: of `from_pretrained`.

        Raises:
            ValueError: the encoders differ.
        """
        source = VPTRForValuePrediction.from_pretrained(path, **kwargs)
        policy = cls(config)
        weights = source.model.encoder.state_dict()
        ours = {name: tuple(tensor.shape) for name, tensor in policy.actor_encoder.state_dict().items()}
        theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if ours != theirs:
            different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            raise ValueError(
                f"the encoder of {path} ({source.config.encoder}, {source.config.image_size} px) does not fit this "
                f"policy's ({config.encoder}, {config.image_size} px): {len(different)} tensors differ, first "
                f"{different[:3]}"
            )
        policy.actor_encoder.load_state_dict(weights)
        policy.critic_encoder.load_state_dict(weights)
        return policy

    @classmethod
    def load_base(cls, path, config: VPTRConfig, **kwargs):
        """As `AdapterLoadingMixin`'s; of a value model both encoders, as training started."""
        found, _ = VPTRConfig.get_config_dict(path, **{k: kwargs[k] for k in ("revision", "token") if k in kwargs})
        if "VPTRForValuePrediction" not in (found.get("architectures") or ()):
            return super().load_base(path, config, **kwargs)
        policy = cls.from_video_pretrained(path, config, **kwargs).eval()
        return policy, policy.own_parameters()

    def own_parameters(self) -> list[str]:
        """Names of what acts and no value model has: all but the encoders (and the temperature, which only trains)."""
        others = ("actor_encoder.", "critic_encoder.", "log_temperature")
        return [name for name, _ in self.named_parameters() if not name.startswith(others)]

    def embed_condition(
        self, encoder, task_ids=None, input_ids=None, attention_mask=None, prompt_embeds=None, goal_pixel_values=None
    ) -> torch.Tensor | None:
        """What tells the networks their task, (B, C); `encoder` reads goal images (actor's or critic's)."""
        condition = self.config.condition
        if condition == "none":
            return None
        if condition == "task":
            if task_ids is None:
                raise ValueError("this policy is told its task by number: give task_ids")
            count = self.config.num_tasks
            if task_ids.is_cpu and len(task_ids) and not 0 <= int(task_ids.min()) <= int(task_ids.max()) < count:
                raise ValueError(f"task_ids must lie in 0..{count - 1}, the table of tasks, got {task_ids.tolist()}")
            return nn.functional.one_hot(task_ids, self.config.num_tasks).to(self.log_temperature.dtype)
        if condition == "goal_image":
            if goal_pixel_values is None:
                raise ValueError("this policy is told its task by a goal image: give goal_pixel_values")
            return encoder(self._check_pixels(goal_pixel_values, "goal_pixel_values"))
        if prompt_embeds is not None:
            return prompt_embeds
        if input_ids is None:
            raise ValueError("this policy is told its task in words: give input_ids or prompt_embeds")
        return self.text_model(input_ids=input_ids, attention_mask=attention_mask).text_embeds

    def act(self, pixel_values: torch.Tensor, state: torch.Tensor | None = None, **condition) -> SquashedGaussian:
        """The actor's distribution. pixel_values (B, 3, H, W) in [0, 1]; condition: see `embed_condition`."""
        if self.config.state_dim and state is None:
            raise ValueError(f"this policy reads a robot state of {self.config.state_dim} numbers: give state")
        embedding = self.actor_bottleneck(self.actor_encoder(self._check_pixels(pixel_values)))
        state = state if self.config.state_dim else None
        return self.actor(embedding, state, self.embed_condition(self.actor_encoder, **condition))

    def evaluate(self, pixel_values: torch.Tensor, actions: torch.Tensor, **condition) -> torch.Tensor:
        """Q of actions (B, A) or (B, K, A) in [-1, 1] -> (E, B) or (E, B, K)."""
        embedding = self.critic_bottleneck(self.critic_encoder(self._check_pixels(pixel_values)))
        return self.critics(embedding, actions, self.embed_condition(self.critic_encoder, **condition))

    def forward(
        self,
        pixel_values: torch.Tensor,
        state: torch.Tensor | None = None,
        actions: torch.Tensor | None = None,
        **condition,
    ) -> VPTRPolicyOutput:
        """
        Args:
            pixel_values: (B, 3, H, W) in [0, 1]. state: (B, state_dim). actions: labels (B, A) in (-1, 1); with them
                `loss`, the behaviour cloning baseline's, and `values`. condition: see `embed_condition`.
        """
        policy = self.act(pixel_values, state, **condition)
        output = VPTRPolicyOutput(actions=policy.mode[:, None], mean=policy.mean, std=policy.std)
        if actions is not None:
            output.loss = -policy.log_prob(actions).mean()
            output.values = self.evaluate(pixel_values, actions, **condition)
        return output

    @torch.no_grad()
    def sample_actions(
        self,
        pixel_values: torch.Tensor,
        state: torch.Tensor | None = None,
        temperature: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        **condition,
    ) -> VPTRSampleOutput:
        """Actions (B, 1, A) in (-1, 1): the mode at temperature 0, else a draw with the deviation scaled by it.

        generator: of the draw; with a list, one for each row, a row does not depend on the others.
        """
        policy = self.act(pixel_values, state, **condition)
        if temperature == 0:
            return VPTRSampleOutput(actions=policy.mode[:, None])
        policy, noise = SquashedGaussian(policy.mean, policy.std * temperature), None
        if isinstance(generator, (list, tuple)):
            if len(generator) != len(policy.mean):
                raise ValueError(f"{len(generator)} generators were given for a batch of {len(policy.mean)}")
            shape = (1, policy.mean.shape[-1])
            rows = [torch.randn(shape, generator=one, device=one.device) for one in generator]
            noise, generator = torch.cat([row.to(policy.mean) for row in rows]), None
        return VPTRSampleOutput(actions=policy.sample(generator=generator, noise=noise)[0][:, None])


__all__ = [
    "VPTRForRobotPolicy",
    "VPTRForValuePrediction",
    "VPTRModel",
    "VPTRModelOutput",
    "VPTRPolicyOutput",
    "VPTRPreTrainedModel",
    "VPTRSampleOutput",
    "VPTRValueOutput",
]
