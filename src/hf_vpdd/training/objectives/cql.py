"""Phases 2 and 3 of V-PTR: conservative Q-learning with the Cal-QL bound and a squashed-Gaussian actor (spec §2.4).

One step, in the official order: critics, their targets from the NEW critics, actor against the NEW critics,
temperature.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..optimizer import guarded_step
from .targets import make_target, update_target


@dataclass
class CqlSettings:
    """Defaults of the authors' release.

    Args:
        alpha: weight of the conservative term. discount. target_rate: of the slow critics.
        num_actions: K draws of each kind. target_entropy: -A if not given.
        bound_with_returns: Cal-QL: policy actions are not pushed below the return G of the demonstration.
        max_backup: bootstrap from the best of K next actions; else from one.
    """

    alpha: float = 5.0
    discount: float = 0.96
    target_rate: float = 0.005
    num_actions: int = 4
    target_entropy: float | None = None
    bound_with_returns: bool = True
    max_backup: bool = True


class SlowCritics(nn.Module):
    """The slow copy of what the critics are made of: encoder, bottleneck, heads."""

    def __init__(self, policy):
        super().__init__()
        self.critic_encoder = make_target(policy.critic_encoder)
        self.critic_bottleneck = make_target(policy.critic_bottleneck)
        self.critics = make_target(policy.critics)

    def update(self, policy, rate: float) -> None:
        for name, part in self.named_children():
            update_target(part, getattr(policy, name), rate)


@dataclass
class CqlBatch:
    """pixel_values, next_pixel_values (B, 3, H, W) in [0, 1]; actions (B, A) in (-1, 1); rewards, masks, returns (B,);
    state, next_state (B, Ds) or None; condition: keyword arguments of `embed_condition`, the same now and next."""

    pixel_values: torch.Tensor
    next_pixel_values: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    masks: torch.Tensor
    returns: torch.Tensor
    state: torch.Tensor | None = None
    next_state: torch.Tensor | None = None
    condition: dict | None = None

    def __post_init__(self):
        size = len(self.pixel_values)
        for name in ("next_pixel_values", "actions", "rewards", "masks", "returns"):
            if len(getattr(self, name)) != size:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, pixel_values has {size}")
        self.condition = self.condition or {}


@dataclass
class CqlDraws:
    """The random numbers of one step: next_actions, policy_actions, random_actions (B, K, A), policy_log_probs
    (B, K), actor_noise (B, A)."""

    next_actions: torch.Tensor
    policy_actions: torch.Tensor
    policy_log_probs: torch.Tensor
    random_actions: torch.Tensor
    actor_noise: torch.Tensor


@torch.no_grad()
def draw(policy, batch: CqlBatch, settings: CqlSettings, generator: torch.Generator | None = None) -> CqlDraws:
    """What one step needs by chance, from the actor as it is before the step."""
    count = settings.num_actions
    now = policy.act(batch.pixel_values, batch.state, **batch.condition)
    upcoming = policy.act(batch.next_pixel_values, batch.next_state, **batch.condition)
    policy_actions, log_probs = now.sample(count, generator)
    next_actions, _ = upcoming.sample(count if settings.max_backup else 1, generator)
    source = now.mean.device if generator is None else generator.device
    uniform = torch.rand(policy_actions.shape, generator=generator, device=source).to(policy_actions) * 2 - 1
    noise = torch.randn(now.mean.shape, generator=generator, device=source).to(now.mean)
    return CqlDraws(next_actions, policy_actions, log_probs, uniform, noise)


@dataclass
class CriticLoss:
    """`loss` = `td` + alpha * `conservative`; scalars, and the Q values (E, B) of the data."""

    loss: torch.Tensor
    td: torch.Tensor
    conservative: torch.Tensor
    values: torch.Tensor


def critic_loss(policy, slow: SlowCritics, batch: CqlBatch, draws: CqlDraws, settings: CqlSettings) -> CriticLoss:
    """Bellman error plus the conservative term, each the mean over critics and batch."""
    actions = torch.cat((batch.actions[:, None], draws.policy_actions, draws.random_actions), dim=1)
    # one pass of the encoder for the data's, the policy's and the random actions
    values = policy.evaluate(batch.pixel_values, actions, **batch.condition)
    count = draws.policy_actions.shape[1]
    at_data, at_policy, at_random = values[..., 0], values[..., 1 : 1 + count], values[..., 1 + count :]
    with torch.no_grad():
        embedding = slow.critic_bottleneck(slow.critic_encoder(batch.next_pixel_values))
        condition = policy.embed_condition(slow.critic_encoder, **batch.condition)
        ahead = slow.critics(embedding, draws.next_actions, condition).amin(0).amax(-1)
        wanted = batch.rewards + settings.discount * batch.masks * ahead
    td = ((at_data - wanted) ** 2).mean()
    if settings.bound_with_returns:
        at_policy = torch.maximum(at_policy, batch.returns[:, None])
    log_uniform = -batch.actions.shape[-1] * math.log(2)
    competitors = torch.cat((at_policy - draws.policy_log_probs, at_random - log_uniform), dim=-1)
    conservative = (torch.logsumexp(competitors, -1) - at_data).mean()
    return CriticLoss(td + settings.alpha * conservative, td.detach(), conservative.detach(), at_data.detach())


@dataclass
class ActorLoss:
    """`loss`, and `entropy` = -E[log pi]; scalars."""

    loss: torch.Tensor
    entropy: torch.Tensor


def actor_loss(policy, batch: CqlBatch, noise: torch.Tensor) -> ActorLoss:
    """mean(T log pi(a|s) - min_k Q_k(s, a)), a reparameterised. Gradients reach the actor's own encoder only."""
    actions, log_probs = policy.act(batch.pixel_values, batch.state, **batch.condition).sample(noise=noise)
    with torch.no_grad():
        embedding = policy.critic_bottleneck(policy.critic_encoder(batch.pixel_values))
        condition = policy.embed_condition(policy.critic_encoder, **batch.condition)
    values = policy.critics(embedding, actions, condition).amin(0)
    temperature = policy.log_temperature.detach().exp()
    return ActorLoss((temperature * log_probs - values).mean(), -log_probs.detach().mean())


def temperature_loss(policy, entropy: torch.Tensor, target_entropy: float) -> torch.Tensor:
    """T (H - target): T grows while the actor's entropy lies below its target."""
    return policy.log_temperature.exp() * (entropy - target_entropy)


def cql_step(
    policy, slow, optimizers: dict, batch: CqlBatch, settings: CqlSettings, draws: CqlDraws, average=None,
    clip: float = 0.0,
) -> dict:  # fmt: skip
    """One whole update.

    Args:
        optimizers: `"critic"` (encoder, bottleneck, critics), `"actor"` (encoder, bottleneck, actor) and
            `"temperature"`, see `make_optimizers`.
        average: list of gradients -> their means over all processes. clip: largest gradient norm of each part, 0: any.

    Returns:
        Scalars to log, tensors; and `skipped` (bool): a loss or gradient was not finite, and that part and those after
        it were left as they were.
    """
    how = {"average": average, "clip": clip}
    critic = critic_loss(policy, slow, batch, draws, settings)
    skipped, norm = _descend(optimizers["critic"], critic.loss, torch.zeros_like(critic.loss, dtype=torch.bool), **how)
    slow.update(policy, settings.target_rate)
    actor = actor_loss(policy, batch, draws.actor_noise)
    skipped, actor_norm = _descend(optimizers["actor"], actor.loss, skipped, **how)
    wanted = -float(batch.actions.shape[-1]) if settings.target_entropy is None else settings.target_entropy
    temperature = temperature_loss(policy, actor.entropy, wanted)
    skipped, _ = _descend(optimizers["temperature"], temperature, skipped, **how)
    return {
        "critic_loss": critic.loss.detach(),
        "td_loss": critic.td,
        "cql_loss": critic.conservative,
        "q_data": critic.values.mean(),
        "actor_loss": actor.loss.detach(),
        "entropy": actor.entropy,
        "temperature_loss": temperature.detach(),
        "temperature": policy.log_temperature.detach().exp(),
        "grad_norm": norm,
        "actor_grad_norm": actor_norm,
        "skipped": skipped,
    }


def make_optimizers(
    policy, actor_lr: float = 1e-4, critic_lr: float = 3e-4, temperature_lr: float = 3e-4, **adam
) -> dict:
    """Adam for each of the three parts, as the authors' release; `adam`: its betas, eps.

    A tower that reads instructions learns from the critics. Frozen parameters are left out.
    """

    def build(names: tuple[str, ...], rate: float) -> torch.optim.Optimizer:
        parts = [part for part in (getattr(policy, name) for name in names) if part is not None]
        parameters = [p for part in parts for p in part.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, rate, fused=parameters[0].device.type in ("cpu", "cuda"), **adam)

    temperature = torch.optim.Adam(
        [policy.log_temperature], temperature_lr, fused=policy.log_temperature.device.type in ("cpu", "cuda"), **adam
    )
    return {
        "critic": build(("critic_encoder", "critic_bottleneck", "critics", "text_model"), critic_lr),
        "actor": build(("actor_encoder", "actor_bottleneck", "actor"), actor_lr),
        "temperature": temperature,
    }


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, bad: torch.Tensor, average=None, clip: float = 0.0):
    """Backward for the parameters of this optimizer alone (the actor's loss must not touch the critics), and a step
    unless something is `bad`; (whether it was, norm of the gradient)."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # Not autograd.grad: what it returns may lie in memory in another order than the parameter, and the fused step
    # takes no notice of that.
    loss.backward(inputs=parameters)
    parameters = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in parameters]
    if average is not None:
        for gradient, mean in zip(gradients, average(gradients)):
            gradient.copy_(mean)
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip:
        torch._foreach_mul_(gradients, (clip / (norm + 1e-6)).clamp(max=1.0))
    # all processes see the same gradients, but each its own loss
    bad = bad | ~torch.isfinite(norm) | (~torch.isfinite(loss.detach()) if average is None else False)
    guarded_step(optimizer, bad)
    return bad, norm
