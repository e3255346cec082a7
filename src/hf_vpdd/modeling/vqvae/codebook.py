"""The vector-quantisation codebook, learned by exponential moving averages."""

import torch
from torch import nn
from torch.nn import functional as F


class EMACodebook(nn.Module):
    """Nearest-neighbour codes with moving-average centroids and dead-code restart (VideoGPT; VPDD spec §1.2).

    The four buffers are persistent: a resumed training goes on with the same averages, and `initialized` keeps the
    loaded codebook from being re-seeded from data (the released code loses that flag).
    """

    def __init__(self, size: int, dim: int, decay: float, restart_threshold: float):
        super().__init__()
        self.decay = decay
        self.restart_threshold = restart_threshold
        self.register_buffer("embeddings", torch.zeros(size, dim))
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("embedding_sum", torch.zeros(size, dim))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """latents (..., D) -> int64 codes (...), the nearest rows in squared L2. Always computed in float32."""
        flat = latents.reshape(-1, latents.shape[-1]).float()
        with torch.autocast(latents.device.type, enabled=False):
            table = self.embeddings.float()
            # |z|^2 is constant in the argmin
            distances = torch.addmm(table.square().sum(1), flat, table.t(), alpha=-2.0)
        return distances.argmin(1).view(latents.shape[:-1])

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """codes (...) -> embeddings (..., D)."""
        return F.embedding(codes, self.embeddings)

    def forward(self, latents: torch.Tensor, generator: torch.Generator | None = None):
        """latents (..., D) -> (codes, quantised embeddings without gradient, perplexity); learns when training."""
        if self.training:
            self._seed_from(latents, generator)
        codes = self.nearest(latents)
        if self.training:
            self._update(latents, codes, generator)
        usage = torch.bincount(codes.flatten(), minlength=len(self.embeddings)).float()
        probabilities = usage / usage.sum()
        perplexity = torch.exp(-(probabilities * (probabilities + 1e-10).log()).sum())
        return codes, self.lookup(codes).to(latents.dtype), perplexity

    @torch.no_grad()
    def _random_latents(self, latents: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """One random encoder vector per code; slightly noised when the batch holds fewer vectors than codes."""
        flat = latents.detach().reshape(-1, latents.shape[-1]).float()
        size, dim = self.embeddings.shape
        device = generator.device if generator is not None else flat.device
        if len(flat) < size:
            rows = torch.randint(len(flat), (size,), generator=generator, device=device).to(flat.device)
            noise = torch.randn(size, dim, generator=generator, device=device).to(flat.device)
            picked = flat[rows] + noise * (0.01 / dim**0.5)
        else:
            picked = flat[torch.randperm(len(flat), generator=generator, device=device)[:size].to(flat.device)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(picked, 0)
        return picked

    @torch.no_grad()
    def _seed_from(self, latents: torch.Tensor, generator: torch.Generator | None) -> None:
        """Data-dependent initialisation on the first training batch; branch-free, so no device sync."""
        picked = self._random_latents(latents, generator)
        self.embeddings.copy_(torch.where(self.initialized, self.embeddings, picked))
        self.embedding_sum.copy_(torch.where(self.initialized, self.embedding_sum, picked))
        self.cluster_size.copy_(torch.where(self.initialized, self.cluster_size, torch.ones_like(self.cluster_size)))
        self.initialized.fill_(True)

    @torch.no_grad()
    def _update(self, latents: torch.Tensor, codes: torch.Tensor, generator: torch.Generator | None) -> None:
        flat, index = latents.detach().reshape(-1, latents.shape[-1]).float(), codes.flatten()
        count = torch.bincount(index, minlength=len(self.embeddings)).float()
        total = torch.zeros_like(self.embedding_sum).index_add_(0, index, flat)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            torch.distributed.all_reduce(total)
        self.cluster_size.lerp_(count, 1 - self.decay)
        self.embedding_sum.lerp_(total, 1 - self.decay)
        # Laplace smoothing keeps rarely used codes finite
        mass = self.cluster_size.sum()
        smoothed = (self.cluster_size + 1e-7) / (mass + len(self.embeddings) * 1e-7) * mass
        centroids = self.embedding_sum / smoothed.unsqueeze(1)
        dead = (self.cluster_size < self.restart_threshold).unsqueeze(1)
        self.embeddings.copy_(torch.where(dead, self._random_latents(latents, generator), centroids))
