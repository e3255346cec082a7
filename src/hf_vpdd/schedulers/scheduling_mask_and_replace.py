"""Mask-and-replace discrete diffusion (VPDD, arXiv 2402.14407, section 3.2; the kernel is VQ-Diffusion's, 2111.14822).

scheduler = MaskAndReplaceScheduler()
t, p_t = scheduler.sample_timesteps(batch)                              # training
x_t = scheduler.add_noise(x_0, t, num_classes=2048)
loss = scheduler.loss(model(x_t, t), x_0, x_t, t, num_classes=2048, timestep_probs=p_t).loss

scheduler.set_timesteps(10)                                             # sampling
x = scheduler.init_noise((batch, length), num_classes=2048)
for t in scheduler.timesteps:
    x = scheduler.step(model(x, t), t, x, num_classes=2048).prev_sample
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput

from ..errors import InputError
from .categorical import draw, nucleus, truncate, uniform
from .mask_and_replace_kernel import NEVER, Jump, bound, reverse


@dataclass
class MaskAndReplaceSchedulerOutput(BaseOutput):
    """`prev_sample`: the less noisy tokens (B, L); `pred_original_sample`: the clean tokens drawn for it (B, L)."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor | None = None


@dataclass
class MaskAndReplaceLoss(BaseOutput):
    """`loss` scalar; `per_sample` (B,) its parts; per position, float64, (B, L): `kl` = KL(q(x_{t-1}|x_t,x_0) || p),
    `nll` = -log p(x_{t-1}=x_0|x_t), `aux` = -log p(x_0|x_t) (in nats); `variational` (B,) = L_t, what
    `update_importance` wants. `kl`, `nll` and `variational` are None for kind="ce"."""

    loss: torch.Tensor
    per_sample: torch.Tensor
    kl: torch.Tensor | None = None
    nll: torch.Tensor | None = None
    aux: torch.Tensor | None = None
    variational: torch.Tensor | None = None


class MaskAndReplaceScheduler(SchedulerMixin, ConfigMixin):
    """Forward process, loss and reverse process of absorbing diffusion with random replacement, for one modality.

    Classes are 0..K-1 and MASK is K = `num_classes`; video and action tokens are handled by two calls, so that neither
    leaks into the other. After t steps a token is itself with alpha_bar_t, MASK with gamma_bar_t, and with the rest a
    class drawn uniformly (itself included); MASK stays MASK. Timesteps run 0..T-1, index -1 is the clean token.

    Args:
        num_train_timesteps (`int`, defaults to 100): T.
        alpha_bar_start, alpha_bar_end (`float`): alpha_bar at t = 0 and t = T-1, linear between. The start is lowered
            to 1 - replace_mass - alpha_bar_end where the replacement mass leaves no more room.
        replace_mass (`float`, defaults to 1e-6): 1 - alpha_bar_t - gamma_bar_t, the same at every t >= 0; in [0, 0.5].
            The released VPDD has 1e-6, which is masked diffusion in all but name; with 0.02, say, the network is
            trained to find and revise wrong visible tokens. Posterior and step are exact for every value.
        truncation (`float`, *optional*, defaults to 0.88): sampling keeps the likeliest classes up to this mass.
        auxiliary_weight (`float`, defaults to 5e-4): weight of the auxiliary cross entropy in the "vb" loss.
        trained_alphas_cumprod, trained_gammas_cumprod (`list[float]`, *optional*): an own schedule, T values each.
        choice_temperature (`float`, defaults to 0), entropy_bound (`float`, defaults to 32.0): of
            [`ConfidenceScheduler`] and [`EntropyBoundScheduler`], which share this configuration. Not read here.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 100,
        alpha_bar_start: float = 0.99999,
        alpha_bar_end: float = 9e-6,
        replace_mass: float = 1e-6,
        truncation: float | None = 0.88,
        auxiliary_weight: float = 5e-4,
        trained_alphas_cumprod: list[float] | None = None,
        trained_gammas_cumprod: list[float] | None = None,
        choice_temperature: float = 0.0,
        entropy_bound: float = 32.0,
    ):
        steps = num_train_timesteps
        if steps < 2:
            raise InputError(f"num_train_timesteps is {steps}; it must be at least 2.")
        if not 0 <= replace_mass <= 0.5:
            raise InputError(f"replace_mass is {replace_mass}; it must lie in [0, 0.5].")
        if truncation is not None and not 0 < truncation <= 1:
            raise InputError(f"truncation is {truncation}; it must lie in (0, 1], or be None for no truncation.")
        for name, value in (("choice_temperature", choice_temperature), ("entropy_bound", entropy_bound)):
            if not value >= 0:
                raise InputError(f"{name} is {value}; it must be 0 or positive.")
        if (trained_alphas_cumprod is None) != (trained_gammas_cumprod is None):
            raise InputError("Give trained_alphas_cumprod and trained_gammas_cumprod together, or neither.")
        if trained_alphas_cumprod is None:
            if not 0 < alpha_bar_end < alpha_bar_start < 1:
                raise InputError(
                    f"alpha_bar runs {alpha_bar_start} -> {alpha_bar_end}; it must fall and stay within (0, 1)."
                )
            room = 1 - replace_mass - alpha_bar_end
            start = alpha_bar_start if alpha_bar_start <= room + 1e-12 else room
            ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
            alphas = ramp * (alpha_bar_end - start) + start
            gammas = ramp * (start - alpha_bar_end) + (1 - replace_mass - start)
            replaced = torch.full_like(alphas, replace_mass)
        else:
            alphas = torch.tensor(trained_alphas_cumprod, dtype=torch.float64)
            gammas = torch.tensor(trained_gammas_cumprod, dtype=torch.float64)
            if alphas.shape != (steps,) or gammas.shape != (steps,):
                raise InputError(f"trained_*_cumprod: need {steps} values each (num_train_timesteps).")
            replaced = 1 - alphas - gammas
            replaced = torch.where(replaced.abs() < 1e-12, 0.0, replaced)
        # index -1: the clean token
        self.alphas_cumprod = torch.cat([alphas, alphas.new_ones(1)])
        self.gammas_cumprod = torch.cat([gammas, gammas.new_zeros(1)])
        self._check_schedule(replaced)
        # Bayes divides by the replacement mass. Its limit at mass 0 is finite, and a tiny stand-in takes it; the clean
        # index stays far below even that.
        replaced = torch.cat([replaced.clamp(min=1e-30), replaced.new_full((1,), 1e-60)])
        self._table = {torch.device("cpu"): torch.stack([self.alphas_cumprod, self.gammas_cumprod, replaced])}
        self.Lt_history = torch.zeros(steps, dtype=torch.float64)
        self.Lt_count = torch.zeros(steps, dtype=torch.float64)
        self.set_timesteps(steps)

    def _check_schedule(self, replaced: torch.Tensor):
        """Every single step must be a probability distribution: keep, replace, mask >= 0, and they sum to one."""
        alphas, gammas = self.alphas_cumprod.roll(1), self.gammas_cumprod.roll(1)  # from clean to the last step
        replaced = torch.cat([replaced.new_zeros(1), replaced])
        grown = replaced[1:] * alphas[:-1] - replaced[:-1] * alphas[1:]
        bad = (alphas[1:] <= 0) | (alphas[1:] >= alphas[:-1]) | (gammas[1:] <= gammas[:-1])
        bad |= (replaced[1:] < 0) | (grown < -1e-12) | ~torch.isfinite(grown)
        if bool(bad.any()):
            t = int(bad.int().argmax())
            raise InputError(
                f"The noise schedule is not valid at t={t}: keep={alphas[t + 1]:.6g}, mask={gammas[t + 1]:.6g}, "
                f"replace={replaced[t + 1]:.6g}. They must sum to one with none negative, keep must fall and stay "
                "above 0, mask must rise, and a replaced token must not come back by itself."
            )

    # ---- schedule -------------------------------------------------------------------------------------------------

    def _cumulative(self, t: torch.Tensor) -> torch.Tensor:
        """alpha_bar, gamma_bar, replaced mass at the timesteps t, float64 (3, *t.shape)."""
        if t.device not in self._table:
            self._table[t.device] = self._table[torch.device("cpu")].to(t.device)
        return self._table[t.device][:, t]

    def jump(self, timestep, prev_timestep, num_classes: int, device=None) -> Jump:
        """The kernel from `prev_timestep` (-1: clean) up to `timestep`; both int or (B,). Entries (B, 1) or (1, 1)."""
        if isinstance(timestep, int) and not 0 <= timestep < self.config.num_train_timesteps:
            raise InputError(f"timestep is {timestep}; it must lie in 0..{self.config.num_train_timesteps - 1}.")
        if isinstance(timestep, int) and isinstance(prev_timestep, int) and not -1 <= prev_timestep < timestep:
            raise InputError(f"prev_timestep is {prev_timestep}; it must lie in -1..{timestep - 1}.")
        t, s = (torch.as_tensor(x).reshape(-1, 1) for x in (timestep, prev_timestep))
        (at, gt, mt), (a, g, m) = self._cumulative(t), self._cumulative(s.to(t.device))
        visible = a + m
        replace = (mt * a - m * at) / (a * visible) / num_classes  # = 1 - keep - mask, without the cancellation
        parts = (at / a, replace, (gt - g) / visible, a, m / num_classes, g, at, mt / num_classes, gt)
        return Jump(*(part.to(device or t.device) for part in parts))

    def set_timesteps(self, num_inference_steps: int | None = None, device=None, timesteps: list[int] | None = None):
        """`num_inference_steps` even jumps from T-1 down to -1 (clean), or the given falling `timesteps`."""
        steps = self.config.num_train_timesteps
        if timesteps is None:
            if num_inference_steps is None or not 1 <= num_inference_steps <= steps:
                raise InputError(f"num_inference_steps is {num_inference_steps}; it must lie in 1..{steps}.")
            timesteps = [steps - 1 - (i * steps) // num_inference_steps for i in range(num_inference_steps)]
        timesteps = [int(t) for t in timesteps]
        bounds = [steps, *timesteps, -1]
        if not timesteps or any(a <= b for a, b in zip(bounds, bounds[1:])):
            raise InputError(f"timesteps {timesteps} must fall strictly and lie in 0..{steps - 1}.")
        self.num_inference_steps = len(timesteps)
        self.timesteps = torch.tensor(timesteps, device=device)
        self._previous = dict(zip(range(steps), range(-1, steps - 1))) | dict(zip(timesteps, bounds[2:]))
        self._previous_table = torch.tensor(list(self._previous.values()), device=device)

    def _previous_timestep(self, timestep):
        """The next of `set_timesteps` on the way down; t-1 for a t that is not among them."""
        if isinstance(timestep, int):
            return self._previous.get(timestep, -1)  # `jump` refuses a t that is out of range
        return self._previous_table.to(timestep.device)[timestep.reshape(-1)]  # a 0-d index would stop a GPU

    def init_noise(self, shape, num_classes: int, device=None) -> torch.Tensor:
        """All MASK, int64. Exact for every replacement mass: MASK says nothing of x_0, q(x_0 | all MASK) = q(x_0)."""
        return torch.full(tuple(shape), num_classes, dtype=torch.int64, device=device)

    # ---- training -------------------------------------------------------------------------------------------------

    def add_noise(self, x_0: torch.Tensor, timesteps: torch.Tensor, num_classes: int, generator=None) -> torch.Tensor:
        """x_t ~ q(x_t | x_0), int64. x_0 int64 (B, ...), timesteps (B,) in -1..T-1. One uniform draw a position."""
        self._check(x_0, timesteps, num_classes, masks=False, lowest=-1)
        _, gamma, mass = self._cumulative(timesteps.to(x_0.device).reshape(-1, *[1] * (x_0.ndim - 1)))
        u = uniform(x_0.shape, generator, x_0.device)
        any_class = ((u - gamma) / mass * num_classes).long().clamp(0, num_classes - 1)
        return torch.where(u < gamma, num_classes, torch.where(u < gamma + mass, any_class, x_0))

    def loss(
        self,
        logits: torch.Tensor,
        x_0: torch.Tensor,
        x_t: torch.Tensor,
        timesteps: torch.Tensor,
        num_classes: int,
        timestep_probs: torch.Tensor | None = None,
        position_weights: torch.Tensor | None = None,
        kind: str = "vb",
    ) -> MaskAndReplaceLoss:
        """
        Args:
            logits: (B, L, K) of p(x_0 | x_t), any float type; x_0, x_t: int64 (B, L); timesteps: (B,) in 0..T-1.
            timestep_probs: (B,) with which the timesteps were drawn; uniform, 1/T, if not given.
            position_weights: (B, L), at choice.
            kind: "vb", the official variational bound plus auxiliary cross entropy, both over t's probability, summed
                and divided by B * L; or "ce", weighted mean cross entropy where x_t differs from x_0, masks included.
        """
        self._check(x_0, timesteps, num_classes, masks=False)
        self._check(x_t, timesteps, num_classes, masks=True)
        self._check_logits(logits, x_t, num_classes)
        if x_0.shape != x_t.shape or (position_weights is not None and position_weights.shape != x_0.shape):
            raise InputError(f"loss: x_0 {tuple(x_0.shape)}, x_t {tuple(x_t.shape)} and position_weights must agree.")
        steps = self.config.num_train_timesteps
        scale = torch.full_like(timesteps, steps, dtype=torch.float64)
        if timestep_probs is not None:
            scale = 1 / timestep_probs.double()
        logits, weights = logits.float(), 1.0 if position_weights is None else position_weights.float()

        if kind == "ce":
            aux = F.cross_entropy(logits.transpose(1, 2), x_0, reduction="none")
            weights = weights * (x_t != x_0)
            loss = (aux * weights).sum(-1) * (scale / steps).float()
            tiny = torch.finfo(torch.float32).tiny
            total = loss.sum() / weights.sum().clamp(min=tiny)
            return MaskAndReplaceLoss(loss=total, per_sample=loss / weights.sum(-1).clamp(min=tiny), aux=aux)
        if kind != "vb":
            raise InputError(f"kind is {kind!r}; choose 'vb' or 'ce'.")

        kl, nll, aux = bound(logits, x_0, x_t, self.jump(timesteps, timesteps - 1, num_classes, x_0.device))
        first = timesteps == 0
        variational = torch.where(first, (nll * weights).sum(-1), (kl * weights).sum(-1))
        auxiliary = torch.where(first, (nll * weights).sum(-1), (aux * weights).sum(-1))
        auxiliary = self.config.auxiliary_weight * (2 - timesteps / steps) * auxiliary
        per_sample = (variational + auxiliary) * scale
        loss = (per_sample.sum() / x_0.numel()).float()
        return MaskAndReplaceLoss(loss, per_sample.float(), kl, nll, aux, variational.detach())

    def sample_timesteps(self, batch: int, generator=None, device=None, importance: bool = True):
        """Timesteps (B,) and their probabilities (B,) float64. Uniform until `update_importance` has seen every
        timestep more than 10 times, then p ~ root mean square of the loss at t, as VPDD; `importance=False`: uniform.
        """
        device = torch.device(device or "cpu")
        probs = torch.ones_like(self.Lt_history)
        if importance:
            learned = torch.sqrt(self.Lt_history + 1e-10) + 1e-4
            learned[0] = learned[1]  # t = 0 is a decoder term on another scale
            probs = torch.where((self.Lt_count > 10).all(), learned, probs)
        probs = (probs / probs.sum()).to(device)
        t = draw(probs.expand(batch, -1), uniform((batch,), generator, device))
        return t, probs[t]

    @torch.no_grad()
    def update_importance(self, timesteps: torch.Tensor, variational: torch.Tensor):
        """Feed L_t (B,) (summed over modalities) to the history; processes share it when torch.distributed runs."""
        seen = torch.zeros(2, len(self.Lt_history), dtype=torch.float64, device=timesteps.device)
        seen.index_add_(1, timesteps, torch.stack([variational.double() ** 2, torch.ones_like(variational).double()]))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen)
        squares, count = seen
        history = self.Lt_history.to(seen.device)
        self.Lt_history = torch.where(count > 0, 0.1 * squares / count.clamp(min=1) + 0.9 * history, history)
        self.Lt_count = self.Lt_count.to(seen.device) + count

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What training must carry over (the importance history); everything else is config."""
        return {"Lt_history": self.Lt_history.clone(), "Lt_count": self.Lt_count.clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor]):
        for name in ("Lt_history", "Lt_count"):
            if name not in state or len(state[name]) != self.config.num_train_timesteps:
                raise InputError(
                    f"Scheduler state: {name} is missing or not of length num_train_timesteps="
                    f"{self.config.num_train_timesteps}; it belongs to another schedule."
                )
            setattr(self, name, state[name].detach().clone().double())

    # ---- sampling -------------------------------------------------------------------------------------------------

    def predict_start(self, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """The p(x_0 | x_t) that `step` draws from, float32 (B, L, K). Temperature 0: all on the likeliest class."""
        if temperature == 0:
            return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        probs = torch.softmax(logits.float() / temperature, dim=-1)
        return probs if self.config.truncation is None else truncate(probs, self.config.truncation)

    def posterior(self, sample, timestep, num_classes: int, logits=None, x_0=None, prev_timestep=None) -> torch.Tensor:
        """log q(x_s | x_t, x_0) given `x_0` (B, L), or its mean over p(x_0 | x_t), log p(x_s | x_t), given `logits`
        (B, L, K). Float32 (B, L, K+1), MASK last; s = `prev_timestep`, t-1 by default; both int or (B,)."""
        if (logits is None) == (x_0 is None):
            raise InputError("posterior: give either logits or x_0.")
        if prev_timestep is None:
            prev_timestep = timestep - 1
        classes = torch.arange(num_classes, device=sample.device)
        if logits is None:
            logits = torch.where(classes == x_0.unsqueeze(-1), 0.0, NEVER)
        self._check_logits(logits, sample, num_classes)
        j = Jump(*(x.unsqueeze(-1) for x in self.jump(timestep, prev_timestep, num_classes, sample.device)))
        masked, at_k = (sample == num_classes).unsqueeze(-1), classes == sample.unsqueeze(-1)
        log_p = torch.log_softmax(logits.float().clamp(min=NEVER), -1).double()
        log_pz = torch.where(at_k, log_p + torch.log(j.replace_t / (j.keep_t + j.replace_t)), log_p)
        log_s = torch.logsumexp(log_pz, -1, keepdim=True)  # 0 at MASK
        log_w = torch.logaddexp(j.keep_s.log() + log_pz, j.replace_s.log() + log_s)
        step = torch.where(masked, j.mask / j.mask_t, (j.keep * at_k + j.replace) / j.replace_t)
        stay = torch.where(masked, j.mask_s / j.mask_t, 0.0).expand(*sample.shape, 1)
        return torch.cat([step.log() + log_w, stay.log()], -1).clamp(min=NEVER).float()

    def step(
        self,
        logits: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        num_classes: int,
        temperature: float = 1.0,
        generator=None,
        prev_timestep: int | torch.Tensor | None = None,
        return_dict: bool = True,
        grid: tuple[int, int] | None = None,
    ) -> MaskAndReplaceSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """One jump back, x_s ~ p(x_s | x_t): one draw of x_0 and one of three things to do per position (`reverse`).

        Args:
            logits: (B, L, K) of p(x_0 | x_t); sample: x_t int64 (B, L), MASK = K.
            timestep: t, an int or a tensor, () or (B,); prev_timestep: s, by default the next of `set_timesteps`.
            temperature: of p(x_0 | x_t); 0 takes the likeliest class (which tokens are revealed stays random).
            generator: one, or a list with one per sample.
            grid: (h, w) of a picture whose tokens these are, row by row; samplers that look at places read it.
        """
        self._check_step(logits, sample, num_classes, temperature)
        if prev_timestep is None:
            prev_timestep = self._previous_timestep(timestep)
        j = self.jump(timestep, prev_timestep, num_classes, sample.device)
        u = uniform((*sample.shape, 2), generator, sample.device)
        x_0 = self.draw_start(logits, temperature, u[..., 0])
        prev_sample = reverse(x_0, sample, u[..., 1], j, num_classes)
        return self._output(prev_sample, x_0, return_dict)

    # ---- what the samplers built on this one share -----------------------------------------------------------------

    adaptive = False  # whether `network_timesteps` differ from `timesteps`, and a sample may be finished early

    def network_timesteps(self, timestep: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """The noise level that the network is told at one of `timesteps`, int64 (B,).

        A joint chain of several modalities has one of them for each sample; masked float (B,) is the share of MASK
        among the tokens that are sampled, of all modalities together. Here it is `timestep` itself.
        """
        return timestep.expand(len(masked))

    def masked_share(self, timestep, prev_timestep=None, device=None) -> torch.Tensor:
        """gamma_bar of the next timestep, float64 (1, 1) or (B, 1): the share of MASK that a step leaves behind."""
        s = self._previous_timestep(timestep) if prev_timestep is None else prev_timestep
        return self._cumulative(torch.as_tensor(s).reshape(-1, 1))[1].to(device)

    def draw_start(self, logits: torch.Tensor, temperature: float, u: torch.Tensor) -> torch.Tensor:
        """x_0 ~ `predict_start`, int64 (B, L); u float64 (B, L) in [0, 1)."""
        if temperature == 0:
            return logits.argmax(-1)
        probs, mass = torch.softmax(logits.float() / temperature, dim=-1), self.config.truncation
        return draw(probs if mass is None else nucleus(probs, mass), u)

    @staticmethod
    def _output(prev_sample: torch.Tensor, x_0: torch.Tensor, return_dict: bool):
        if not return_dict:
            return prev_sample, x_0
        return MaskAndReplaceSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x_0)

    # ---- checks (values only on the CPU: looking at a GPU's would stall it; there the gather itself complains) ------

    def _check(self, tokens: torch.Tensor, timesteps: torch.Tensor, num_classes: int, masks: bool, lowest: int = 0):
        if tokens.is_floating_point() or timesteps.is_floating_point():
            raise InputError(f"Tokens and timesteps must be integers, got {tokens.dtype} and {timesteps.dtype}.")
        if timesteps.ndim != 1 or len(timesteps) != len(tokens):
            raise InputError(f"timesteps {tuple(timesteps.shape)} must be (B,) for tokens {tuple(tokens.shape)}.")
        if tokens.is_cpu and tokens.numel() and not torch.compiler.is_compiling():
            top = num_classes if masks else num_classes - 1
            if int(tokens.min()) < 0 or int(tokens.max()) > top:
                span = f"{int(tokens.min())}..{int(tokens.max())}"
                raise InputError(f"Tokens span {span}, outside this vocabulary's 0..{top}.")
        if timesteps.is_cpu and timesteps.numel() and not torch.compiler.is_compiling():
            if int(timesteps.min()) < lowest or int(timesteps.max()) >= self.config.num_train_timesteps:
                raise InputError(f"timesteps must lie in {lowest}..{self.config.num_train_timesteps - 1}.")

    def _check_step(self, logits: torch.Tensor, sample: torch.Tensor, num_classes: int, temperature: float):
        self._check_logits(logits, sample, num_classes)
        if not temperature >= 0:
            raise InputError(f"temperature is {temperature}; it must be 0 (likeliest class) or positive.")

    @staticmethod
    def _check_logits(logits: torch.Tensor, sample: torch.Tensor, num_classes: int):
        if logits.shape != (*sample.shape, num_classes):
            want = (*sample.shape, num_classes)
            raise InputError(f"logits are {tuple(logits.shape)}, expected {want}: (B, L, num_classes).")

    def __len__(self):
        return self.config.num_train_timesteps
