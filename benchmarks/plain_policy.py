"""The official sampling loop at its own cost: what the samplers are measured against.

The same weights, evaluated as the released VPDD evaluates them (written from the description of the algorithm, not for
use). At every step the codebook is extended and embedded anew, and so are history, instruction and t; attention is
explicit; the decoder answers all 2 + 2L positions though L are wanted; GPT-2 runs all positions through all layers
though the actions are wanted; and the next tokens come from the dense form (`dense_diffusion.py`).
"""

from __future__ import annotations

import copy

import torch
from dense_diffusion import DenseDiffusion
from torch.nn import functional as F


class PlainPolicy:
    """
    Args:
        model: a `VPDDForRobotPolicy` of the official Meta-World configuration, in eval mode.
        attention: "eager", as released, or "sdpa".
    """

    def __init__(self, model, attention: str = "eager") -> None:
        # the same parameters in modules of their own, so that the other side keeps its attention
        parameters = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
        self.model = copy.deepcopy(model, parameters)
        self.model.config._attn_implementation = attention
        self.model.action_head.transformer.config._attn_implementation = attention
        config = model.config
        classes = (config.vqvae_config.codebook_size, config.num_action_bins)
        self.tokens = (config.video_tokens, config.chunk_size * config.action_dim)
        self.dense = DenseDiffusion(model.scheduler, classes, self.tokens, model.device)
        self.mask, self.steps = sum(classes), config.num_train_timesteps

    def evaluate(self, sample: torch.Tensor, t: torch.Tensor, history: torch.Tensor, prompt: torch.Tensor):
        """One evaluation of both networks. Joint ids int64 (B, L_v + L_a), t (B,), history codes (B, L_v), instruction
        (B, P) -> logits (B, L_v, K_v), (B, L_a, K_a)."""
        trunk, head = self.model.model.trunk, self.model.action_head
        # p_theta1
        codebook = self.model.model.vqvae.codebook.embeddings
        codebook = torch.cat([codebook, codebook.new_zeros(self.mask + 1 - len(codebook), codebook.shape[1])])
        past = trunk.history_embed(F.embedding(history, codebook))
        future = trunk.code_embed(F.embedding(sample[:, : self.tokens[0]], codebook))
        time, condition = trunk.timestep_embed(t)[:, None], trunk.prompt_embed(prompt)[:, None]
        sequence = time * (condition * torch.cat([time, condition, past, future], 1))
        sequence = trunk.input_norm(sequence + trunk.position_embed[: sequence.shape[1]])
        latents = trunk.reader(trunk.latents.expand(len(sample), -1, -1), sequence)
        for layer in trunk.layers:
            latents = layer(latents)
        states = trunk.decoder(sequence, latents)[:, -self.tokens[0] :]
        video_logits = trunk.code_head(states)
        # p_theta2
        time, condition = head.timestep_embed(t)[:, None], head.prompt_embed(prompt)[:, None]
        bins = sample[:, self.tokens[0] :] - self.dense.classes[0]
        actions = head.action_embed(bins.unsqueeze(-1).to(states.dtype))
        sequence = time * (condition * torch.cat([time, condition, states, actions], 1))
        sequence = head.input_norm(sequence + head.position_embed[: sequence.shape[1]])
        hidden = head.transformer(inputs_embeds=sequence, use_cache=False).last_hidden_state[:, -self.tokens[1] :]
        hidden = hidden.unflatten(1, (-1, len(head.groups)))
        action_logits = torch.stack([layer(hidden[:, :, i]) for i, layer in enumerate(head.action_out)], 2)
        return video_logits.float(), action_logits.flatten(1, 2).float()

    @torch.no_grad()
    def plan(self, pixel_values: torch.Tensor, prompt: torch.Tensor, steps: int | None = None, generator=None):
        """Frames (B, 1, T, 3, H, W) in [-0.5, 0.5] and an instruction (B, P) -> joint ids (B, L_v + L_a).

        `steps` ends the chain early, for measuring: every step costs the same.
        """
        history = self.model.model.encode_video(pixel_values).flatten(1)
        sample = history.new_full((len(history), sum(self.tokens)), self.mask)
        for step in reversed(range(self.steps - (steps or self.steps), self.steps)):
            t = torch.full_like(sample[:, 0], step)
            sample = self.dense.step(*self.evaluate(sample, t, history, prompt), sample, t, generator)
        return sample
