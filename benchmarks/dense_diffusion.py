"""The diffusion in the shape in which the official VPDD computes it: what the closed forms are measured against.

Written from the description of the algorithm (VQ-Diffusion, arXiv 2111.14822), not for use. Both modalities share one
vocabulary of K classes [video codes, action bins, MASK]; every token is a column of K log-probabilities, every rule a
(B, K, L) tensor of them; the softmax runs in float64; truncation sorts; drawing adds Gumbel noise to every class.
`tests/benchmarks/test_vpdd_diffusion.py` holds it to the official numbers.
"""

from __future__ import annotations

import torch


FLOOR = -70.0  # the log of nothing
OTHER = -1e4  # logit of a class of the other modality


class DenseDiffusion:
    """
    Args:
        scheduler: a `MaskAndReplaceScheduler`, for its schedule. classes: number of (video codes, action bins).
        tokens: number of (video, action) positions in the sequence, video first.
    """

    def __init__(self, scheduler, classes: tuple[int, int], tokens: tuple[int, int], device="cpu") -> None:
        self.classes, self.tokens, self.device = classes, tokens, device
        self.size, self.truncation = sum(classes) + 1, scheduler.config.truncation
        self.auxiliary_weight, self.steps = scheduler.config.auxiliary_weight, scheduler.config.num_train_timesteps
        kept, masked = scheduler.alphas_cumprod, scheduler.gammas_cumprod  # entry T is the clean token's
        keep, mask = kept[:-1] / kept.roll(1)[:-1], 1 - (1 - masked[:-1]) / (1 - masked.roll(1)[:-1])
        self.once, self.since_clean = self.table(keep, mask), self.table(kept, masked)
        video = torch.arange(self.size) < classes[0]
        at_video = torch.arange(sum(tokens)) < tokens[0]
        foreign = video[:, None] != at_video
        foreign[-1] = False  # MASK belongs to both
        self.foreign = foreign.to(device)

    def table(self, keep: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logs of what a class holds on to and of what it gets from the others, float32 (steps, K)."""
        replace = (1 - keep - mask).clamp(min=0)
        video, action = self.classes
        holds = [keep[:, None].expand(-1, video + action), (1 - mask)[:, None]]
        gets = [(replace / video)[:, None].expand(-1, video), (replace / action)[:, None].expand(-1, action)]
        gets.append(mask[:, None])
        log = lambda parts: torch.cat(parts, 1).log().clamp(min=FLOOR).float().to(self.device)  # noqa: E731
        return log(holds), log(gets)

    def one_hot(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 (B, L) -> log one-hot (B, K, L)."""
        hot = torch.nn.functional.one_hot(tokens, self.size).transpose(1, 2)
        return hot.float().clamp(min=1e-30).log()

    def diffuse(self, log_x: torch.Tensor, t: torch.Tensor, table) -> torch.Tensor:
        """One jump forward of a distribution (B, K, L)."""
        holds, gets = (rows[t].unsqueeze(-1) for rows in table)
        return torch.logaddexp(log_x + holds, gets)

    def posterior(self, log_start: torch.Tensor, log_x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """log q(x_{t-1} | x_t, x_0 ~ start), (B, K, L)."""
        masked = (log_x_t.argmax(1) == self.size - 1).unsqueeze(1)
        nothing = torch.full_like(log_x_t[:, :1], 1e-30).log()
        # how likely each x_0 is to have become this x_t, and each x_{t-1} to become it now
        evidence = self.diffuse(log_x_t, t, self.since_clean)[:, :-1]
        evidence = torch.where(masked, self.since_clean[1][t][:, -1:, None], evidence)
        step = torch.cat([self.diffuse(log_x_t, t, self.once)[:, :-1], nothing], 1)
        gone = torch.cat([self.once[1][t][:, -1:].expand(-1, self.size - 1), torch.zeros_like(t)[:, None]], 1)
        step = torch.where(masked, gone.unsqueeze(-1), step)
        weights = torch.cat([log_start[:, :-1] - evidence, nothing], 1)
        norm = torch.logsumexp(weights, 1, keepdim=True)
        before = self.diffuse(weights - norm, (t - 1) % (self.steps + 1), self.since_clean)
        return (before + step + norm).clamp(FLOOR, 0)

    def start(self, video_logits: torch.Tensor, action_logits: torch.Tensor) -> torch.Tensor:
        """(B, L_v, K_v) and (B, L_a, K_a) -> log p(x_0 | x_t) (B, K, L)."""
        pad = torch.nn.functional.pad
        video = pad(video_logits.transpose(1, 2), (0, 0, 0, self.classes[1]), value=OTHER)
        action = pad(action_logits.transpose(1, 2), (0, 0, self.classes[0], 0), value=OTHER)
        log_start = torch.log_softmax(torch.cat([video, action], 2).double(), 1).float()
        return pad(log_start, (0, 0, 0, 1), value=FLOOR).clamp(FLOOR, 0)

    def loss_parts(self, video_logits, action_logits, x_0, x_t, t):
        """kl, nll, aux per position, (B, L). Ids: bins follow the codes, MASK is last."""
        log_start, clean, log_x_t = self.start(video_logits, action_logits), self.one_hot(x_0), self.one_hot(x_t)
        model, true = self.posterior(log_start, log_x_t, t), self.posterior(clean, log_x_t, t)
        kl = (true.exp() * (true - model)).sum(1)
        nll, aux = -(clean.exp() * model).sum(1), -(clean.exp() * log_start).sum(1)
        return kl, nll, aux

    def loss(self, video_logits, action_logits, x_0, x_t, t, timestep_probs) -> torch.Tensor:
        kl, nll, aux = self.loss_parts(video_logits, action_logits, x_0, x_t, t)
        first = (t == 0)[:, None]
        bound, auxiliary = torch.where(first, nll, kl).sum(1), torch.where(first, nll, aux).sum(1)
        auxiliary = self.auxiliary_weight * (2 - t / self.steps) * auxiliary
        return ((bound + auxiliary) / timestep_probs).sum().float() / x_0.numel()

    def truncate(self, log_start: torch.Tensor) -> torch.Tensor:
        """Keep a class if the likelier ones hold less than the truncation's mass."""
        ranked, order = log_start.sort(dim=1, descending=True)
        below = ranked.exp().cumsum(1) < self.truncation
        below = torch.cat([torch.ones_like(below[:, :1]), below[:, :-1]], 1)
        kept = below.gather(1, order.argsort(1))
        return torch.where(kept, log_start, FLOOR)

    def log_step(self, video_logits, action_logits, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Unnormalised log p(x_{t-1} | x_t), (B, K, L), from which `step` draws."""
        log_start = self.start(video_logits, action_logits)
        if self.truncation is not None:
            log_start = self.truncate(log_start)
        return self.posterior(log_start, self.one_hot(x_t), t).masked_fill(self.foreign, OTHER)

    def step(self, video_logits, action_logits, x_t: torch.Tensor, t: torch.Tensor, generator=None) -> torch.Tensor:
        """x_{t-1}, int64 (B, L)."""
        log_probs = self.log_step(video_logits, action_logits, x_t, t)
        noise = torch.rand(log_probs.shape, generator=generator, device=log_probs.device)
        return (log_probs - torch.log(-torch.log(noise + 1e-30) + 1e-30)).argmax(1)
