"""The official RLBench action head: several cameras, raw views, proprioception (VPDD §3.3; spec §3.3, §3.4)."""

import torch
from torch import nn
from torch.nn import functional as F

from .causal_head import CausalHead, output_layer
from .configuration_vpdd import VPDDConfig


# of the convolutions over raw views and of the state's layer
SLOPE = 0.02


class ViewPatches(nn.Module):
    """Raw views (B, V, 3, H, W) -> patch tokens (B, V * rows * columns, size), view by view, row by row."""

    def __init__(self, config: VPDDConfig):
        super().__init__()
        width, patch, size = config.head_image_channels, config.head_patch_size, config.head_hidden_size
        self.conv = nn.Conv2d(config.vqvae_config.num_channels, width, 1)
        self.patchify = nn.Conv2d(width, width, patch, stride=patch)
        self.norm = nn.GroupNorm(4, width)
        self.proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size), nn.Mish(), nn.Linear(size, size))

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        hidden = F.leaky_relu(self.conv(views.flatten(0, 1).to(self.conv.weight.dtype)), SLOPE)
        hidden = F.leaky_relu(self.norm(self.patchify(hidden)), SLOPE)
        tokens = self.proj(hidden.flatten(2).transpose(1, 2))
        return tokens.unflatten(0, views.shape[:2]).flatten(1, 2)


class CausalMultiviewHead(CausalHead):
    """The sequence is [t, instruction, state, L video tokens, patches of the raw views, chunk*A noisy actions].

    The video tokens carry all views at one place of the code grid, side by side in the channels, through a perceptron.
    `config.head_video_input` says what they are made of: `"forecast"`, the trunk's states of every view, as the paper
    describes; or `"history"`, rows of the codebook for the *current* clip of the views `head_view_order`, which is
    what the released code feeds and its weights expect.
    """

    @staticmethod
    def sequence_length(config: VPDDConfig) -> int:
        patches = (config.pixel_size // config.head_patch_size) ** 2 * config.num_views
        return 3 + config.video_tokens + patches + config.chunk_size * config.action_dim

    def build_inputs(self, config: VPDDConfig) -> None:
        size, patch = config.head_hidden_size, config.head_patch_size
        if config.pixel_size < patch:
            raise ValueError(
                f"views of {config.pixel_size} px are smaller than one patch of head_patch_size = {patch}"
            )
        if not config.state_dim:
            raise ValueError("the causal_multiview head reads the robot's state: set state_dim")
        self.from_history = config.head_video_input == "history"
        self.view_order = config.head_view_order or list(range(config.num_views))
        if not all(0 <= view < config.num_views for view in self.view_order):
            raise ValueError(f"head_view_order {self.view_order} names a view outside 0..{config.num_views - 1}")
        width = config.vqvae_config.codebook_dim if self.from_history else config.hidden_size
        self.state_proj = nn.Linear(config.state_dim, size)
        self.view_patches = ViewPatches(config)
        self.video_proj = nn.Sequential(
            nn.Linear(len(self.view_order) * width, size),
            nn.Mish(),
            nn.Linear(size, size),
            nn.Mish(),
            nn.Linear(size, size),
        )
        self.action_embed = nn.Embedding(config.num_action_bins + 1, size)  # the last row is MASK

    def build_outputs(self, config: VPDDConfig, classes: int) -> None:
        """Two layers for each group of dimensions, one for the last group (the gripper)."""
        size = config.head_hidden_size
        self.action_out = nn.ModuleList(output_layer(size, classes) for _ in self.groups[:-1])
        self.action_out.append(nn.Linear(size, classes))

    def encode_context(
        self,
        trunk_context: dict[str, torch.Tensor],
        prompt: torch.Tensor,
        state: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            trunk_context: of the trunk; `codes` (B, V, L, D) is read for `"history"`.
            prompt: (B, P). state: (B, state_dim). pixel_values: (B, V, T, 3, H, W); the newest frame is read.
        """
        if pixel_values is None:
            raise ValueError("the causal_multiview head reads raw views: give pixel_values, not only history_codes")
        if state is None:
            raise ValueError("the causal_multiview head reads the robot's state: give state")
        condition = self.prompt_embed(prompt)[:, None]
        state = F.leaky_relu(self.state_proj(state.to(self.state_proj.weight.dtype)), SLOPE)[:, None]
        context = {
            "condition": condition,
            "before": condition * torch.cat((condition, state), dim=1),
            "after": condition * self.view_patches(pixel_values[:, :, -1]),
        }
        if self.from_history:
            if "codes" not in trunk_context:
                raise ValueError('head_video_input="history" needs the "perceiver" trunk, which hands over its codes')
            context["video"] = condition * self.embed_video(trunk_context["codes"])
        return context

    def embed_video(self, video_hidden: torch.Tensor) -> torch.Tensor:
        """States or codebook rows of every view (B, V, L, D) -> (B, L, size)."""
        views = torch.cat([video_hidden[:, view] for view in self.view_order], dim=-1)
        return self.video_proj(views)

    def embed_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """Bins int64 (B, chunk*A) -> (B, chunk*A, size)."""
        return self.action_embed(actions)
