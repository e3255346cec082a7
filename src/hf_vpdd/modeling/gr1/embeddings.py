"""What is observed -> tokens of the trunk, and the trunk's [ACT] states -> actions (spec §1.1)."""

import torch
from torch import nn
from transformers import initialization as init

from .configuration_gr1 import GR1Config


class StateEmbedding(nn.Module):
    """State (..., state_dim) -> one token. A binary gripper, the last number, is embedded as a class."""

    def __init__(self, config: GR1Config):
        super().__init__()
        size = config.hidden_size
        self.gripper = config.binary_gripper_state
        self.arm = nn.Linear(config.state_dim - int(self.gripper), size)
        self.gripper_class = nn.Linear(2, size) if self.gripper else None  # closed, open
        self.out = nn.Linear(2 * size if self.gripper else size, size)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        if not self.gripper:
            return self.out(self.arm(state))
        arm, opened = state[..., :-1], state[..., -1:]
        one_hot = torch.cat((1 - opened, opened), dim=-1)
        return self.out(torch.cat((self.arm(arm), self.gripper_class(one_hot)), dim=-1))


class ViewEmbedding(nn.Module):
    """One camera: its latents and its [CLS] -> tokens; and `queries`, the [OBS] tokens that ask for its future."""

    def __init__(self, config: GR1Config):
        super().__init__()
        wide = config.vision_config.hidden_size
        self.latents = nn.Linear(wide, config.hidden_size)
        self.cls = nn.Linear(wide, config.hidden_size)
        self.queries = nn.Embedding(config.num_latents + 1, config.hidden_size)

    def forward(self, latents: torch.Tensor, cls: torch.Tensor) -> torch.Tensor:
        """latents (..., L, D) and cls (..., 1, D) -> (..., L + 1, size)."""
        return torch.cat((self.latents(latents), self.cls(cls)), dim=-2)


class ActionQueries(nn.Module):
    """[ACT] tokens: one learned vector, and for chunks a learned difference for each action, zero at first.

    So a network trained without chunks starts as itself when given some.
    """

    def __init__(self, config: GR1Config):
        super().__init__()
        self.base = nn.Parameter(torch.empty(1, config.hidden_size))
        self.chunk = None
        if config.chunk_size > 1:
            self.chunk = nn.Parameter(torch.empty(config.chunk_size, config.hidden_size))

    @torch.no_grad()
    def init_own_parameters(self) -> None:
        init.normal_(self.base)
        if self.chunk is not None:
            init.zeros_(self.chunk)

    def forward(self, like: torch.Tensor) -> torch.Tensor:
        """(chunk, size), in the dtype of `like`. (An argument, since adapters wrap nothing that takes none.)"""
        return (self.base if self.chunk is None else self.base + self.chunk).to(like.dtype)


class ActionHead(nn.Module):
    """[ACT] states -> arm and gripper. No activation between the layers: the released network is affine here, whatever
    the paper's figure says."""

    def __init__(self, config: GR1Config):
        super().__init__()
        size = config.hidden_size // 2
        self.fc1 = nn.Linear(config.hidden_size, size)
        self.fc2 = nn.Linear(size, size)
        self.arm = nn.Linear(size, config.arm_dim)
        self.gripper = nn.Linear(size, 1) if config.binary_gripper_action else None

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(..., size) -> arm (..., arm_dim) and the logit of an open gripper (..., 1), None without gripper."""
        hidden = self.fc2(self.fc1(hidden))
        return self.arm(hidden), None if self.gripper is None else self.gripper(hidden)
