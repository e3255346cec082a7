"""V-PTR's two training steps as the released JAX code spells them out, in plain PyTorch: what vptr_step.py races.

Written from the formulas of the specification. Every value and every distribution is computed where it is asked for:
the encoder runs twelve times in a step of ICVF (three images for each of V(s, s+, z), V'(s', s+, z), V'(s', z, z) and
V'(s, z, z)), and in a step of CQL the actor's runs on the observation once for each of its K actions. Adam and the
slow networks go parameter by parameter. (What a compiler of JAX would merge afterwards is not merged here.)
"""

import math

import torch


class LiteralIcvf:
    """model, target: `VPTRForValuePrediction` and its slow copy."""

    def __init__(self, model, target, discount=0.99, expectile=0.9, rate=0.005, learning_rate=3e-4, layout=None):
        self.model, self.target = model, target
        self.discount, self.expectile, self.rate, self.layout = discount, expectile, rate, layout
        self.optimizer = torch.optim.Adam(model.parameters(), learning_rate, foreach=False)

    def value(self, network, state, outcome, intent):
        """V(s, s+, z) of uint8 images (B, S, S, 3)."""
        heads = network.value_heads
        phi = heads.represent_state(network.encode(to_pixels(state, self.layout)))
        psi = heads.represent_goal(network.encode(to_pixels(outcome, self.layout)))
        return heads.value(phi, psi, heads.represent_goal(network.encode(to_pixels(intent, self.layout))))

    def step(self, batch) -> torch.Tensor:
        s, following, outcome, z = batch["frames"]
        with torch.no_grad():
            ahead = self.value(self.target, following, outcome, z)
            wanted = batch["rewards"] + self.discount * batch["masks"] * ahead
            next_z = self.value(self.target, following, z, z).min(0).values
            now_z = self.value(self.target, s, z, z).mean(0)
            advantage = batch["intent_rewards"] + self.discount * batch["intent_masks"] * next_z - now_z
            weight = torch.where(advantage >= 0, self.expectile, 1 - self.expectile)
        found = self.value(self.model, s, outcome, z)
        loss = sum((weight * (q - v) ** 2).mean() for q, v in zip(wanted, found))
        self.optimizer.zero_grad()
        loss.backward()
        slow_update(self.target, self.model, self.rate)
        self.optimizer.step()
        return loss.detach()


class LiteralCql:
    """policy, slow: `VPTRForRobotPolicy` told its task by number, and the slow copies of its critic."""

    def __init__(self, policy, slow, settings, layout=None):
        self.policy, self.slow, self.settings, self.layout = policy, slow, settings, layout
        rates = {"critic": 3e-4, "actor": 1e-4}
        self.optimizers = {
            name: torch.optim.Adam(self.parameters(name), rate, foreach=False) for name, rate in rates.items()
        }
        self.optimizers["temperature"] = torch.optim.Adam([policy.log_temperature], 3e-4, foreach=False)

    def parameters(self, name):
        parts = {"critic": ("critic_encoder", "critic_bottleneck", "critics"),
                 "actor": ("actor_encoder", "actor_bottleneck", "actor")}  # fmt: skip
        return [p for part in parts[name] for p in getattr(self.policy, part).parameters()]

    def act(self, frames, state, task):
        policy = self.policy
        embedding = policy.actor_bottleneck(policy.actor_encoder(to_pixels(frames, self.layout)))
        return policy.actor(embedding, state, task)

    def step(self, batch, generator) -> torch.Tensor:
        policy, slow, settings = self.policy, self.slow, self.settings
        now, following = batch["frames"]
        count, (rows, width) = settings.num_actions, batch["actions"].shape
        task = torch.nn.functional.one_hot(batch["task_ids"], policy.config.num_tasks).float()

        def tile(x):
            return x.repeat_interleave(count, dim=0)

        def normal(*shape):
            return torch.randn(shape, generator=generator)

        with torch.no_grad():
            # every observation once for each of its actions, pixels and all
            at_now = self.act(tile(now), tile(batch["state"]), tile(task))
            at_next = self.act(following, batch["next_state"], task)
            policy_actions, log_probs = at_now.sample(noise=normal(rows, count, width).flatten(0, 1))
            next_actions, _ = at_next.sample(count, noise=normal(rows, count, width))
            random_actions = torch.rand((rows, count, width), generator=generator).flatten(0, 1) * 2 - 1
            noise = normal(rows, width)
            embedding = slow.critic_bottleneck(slow.critic_encoder(to_pixels(following, self.layout)))
            ahead = slow.critics(tile(embedding), next_actions.flatten(0, 1), tile(task)).min(0).values
            ahead = ahead.view(rows, count).max(1).values
            wanted = batch["rewards"] + settings.discount * batch["masks"] * ahead

        embedding = policy.critic_bottleneck(policy.critic_encoder(to_pixels(now, self.layout)))
        at_data = policy.critics(embedding, batch["actions"], task)
        at_policy = policy.critics(tile(embedding), policy_actions, tile(task)).view(-1, rows, count)
        at_random = policy.critics(tile(embedding), random_actions, tile(task)).view(-1, rows, count)
        td = ((at_data - wanted) ** 2).mean()
        at_policy = torch.maximum(at_policy, batch["returns"][None, :, None])
        competitors = [at_policy - log_probs.view(rows, count), at_random - width * math.log(0.5)]
        conservative = (torch.logsumexp(torch.cat(competitors, dim=-1), dim=-1) - at_data).mean()
        loss = td + settings.alpha * conservative
        self._descend("critic", loss)
        for name, part in slow.named_children():
            slow_update(part, getattr(policy, name), settings.target_rate)

        actions, log_prob = self.act(now, batch["state"], task).sample(noise=noise)
        with torch.no_grad():
            embedding = policy.critic_bottleneck(policy.critic_encoder(to_pixels(now, self.layout)))
        value = policy.critics(embedding, actions, task).min(0).values
        self._descend("actor", (policy.log_temperature.detach().exp() * log_prob - value).mean())
        entropy = -log_prob.detach().mean()
        self._descend("temperature", policy.log_temperature.exp() * (entropy + width))
        return loss.detach()

    def _descend(self, name: str, loss: torch.Tensor) -> None:
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
        optimizer.step()


def to_pixels(frames: torch.Tensor, layout=None) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> float (B, 3, S, S) in [0, 1], in torch's usual layout unless another is named."""
    pixels = frames.permute(0, 3, 1, 2).float() / 255
    return pixels.contiguous(memory_format=layout or torch.contiguous_format)


@torch.no_grad()
def slow_update(target, online, rate: float) -> None:
    for slow, fast in zip(target.parameters(), online.parameters()):
        slow.copy_(rate * fast + (1 - rate) * slow)
