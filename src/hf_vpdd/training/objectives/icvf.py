"""Phase 1 of V-PTR: the temporal-difference loss of intent-conditioned values (ICVF; spec vptr.md §1.2).

One step, in the official order: loss and gradients with the old target, target <- rate * OLD online + ..., Adam.
"""

from dataclasses import dataclass

import torch


@dataclass
class IcvfLoss:
    """`loss` = the sum over heads of `per_head` (E,); the rest are scalars to log, without gradient.

    Args:
        advantage: mean advantage under the intent. accept: how often it was not negative.
        value: mean V(s, s+, z). value_at_intent: mean V(s, z, z) of the target. target: mean regression target.
    """

    loss: torch.Tensor
    per_head: torch.Tensor
    values: torch.Tensor
    advantage: torch.Tensor
    accept: torch.Tensor
    value_at_intent: torch.Tensor
    target: torch.Tensor


def icvf_loss(
    model,
    target,
    states: torch.Tensor,
    next_states: torch.Tensor,
    goals: torch.Tensor,
    intents: torch.Tensor,
    rewards: torch.Tensor,
    intent_rewards: torch.Tensor,
    masks: torch.Tensor,
    intent_masks: torch.Tensor,
    discount: float = 0.99,
    expectile: float = 0.9,
    min_q: bool = True,
    no_intent: bool = False,
    goal_is_intent: torch.Tensor | None = None,
) -> IcvfLoss:
    """
    Each distinct image is encoded once by each network: s, s+, z with gradient, s', s, s+, z by the target; seven
    passes. The literal transcription takes twelve.

    Args:
        model, target: [`VPTRForValuePrediction`] and its slow copy.
        states, next_states, goals, intents: s, s', s+, z, what `model.encode` takes, (B, ...) each. With an intent in
            words `intents` are the features of `model.embed_intent`, (B, F), already made, and of the target likewise
            in a pair (online, target).
        rewards, masks: (B,), of reaching s+; 0 and 0 where s is s+, else -1 and 1. intent_rewards, intent_masks: z.
        min_q: the smaller head of the next state in the advantage; else their mean.
        no_intent: the ablation: all intents are the same, and every error weighs `expectile`.
        goal_is_intent: bool (B,), rows whose outcome is the intent itself, whatever `goals` holds (intents in words).

    Raises:
        ValueError: batch sizes differ.
    """
    sizes = {len(x) for x in (states, next_states, goals, rewards, intent_rewards, masks, intent_masks)}
    if len(sizes) != 1:
        raise ValueError(f"icvf_loss: all inputs need one batch size, got {sorted(sizes)}")
    in_words = isinstance(intents, tuple)
    online_images = [states, goals] if in_words else [states, goals, intents]
    state, goal, *intent = _encode(model, online_images)
    with torch.no_grad():
        slow_features = _encode(target, [states, next_states, goals] + ([] if in_words else [intents]))
    intent = whole(intents[0]) if in_words else intent[0]
    slow_intent = whole(intents[1]) if in_words else slow_features[3]
    # Values reach 1 / (1 - discount) and their differences decide: half precision is for the encoders alone.
    with torch.autocast(state.device.type, enabled=False):
        values, wanted, advantage, current = _bootstrap(
            model.value_heads, target.value_heads, (state, goal, intent), (*slow_features[:3], slow_intent),
            (rewards, intent_rewards, masks, intent_masks), discount, min_q, no_intent, goal_is_intent,
        )  # fmt: skip
        weight = torch.where(advantage >= 0, expectile, 1 - expectile)
        per_head = (weight * (wanted - values) ** 2).mean(-1)
    return IcvfLoss(
        loss=per_head.sum(),
        per_head=per_head.detach(),
        values=values.detach(),
        advantage=advantage.mean(),
        accept=(advantage >= 0).float().mean(),
        value_at_intent=current.mean(),
        target=wanted.mean(),
    )


def _bootstrap(heads, slow, online, slow_features, labels, discount, min_q, no_intent, goal_is_intent):
    """(values (E, B), what they regress on (E, B), advantage (B,), the target's value at the intent (B,))."""
    (state, goal, intent), (slow_state, slow_next, slow_goal, slow_intent) = online, slow_features
    rewards, intent_rewards, masks, intent_masks = labels
    if goal_is_intent is not None:
        goal = torch.where(goal_is_intent[:, None], intent, goal)
        slow_goal = torch.where(goal_is_intent[:, None], slow_intent, slow_goal)
    phi, psi, psi_z = heads.represent_state(state), heads.represent_goal(goal), heads.represent_goal(intent)
    if no_intent:
        psi_z = torch.ones_like(psi_z)
    values = heads.value(phi, psi, psi_z)

    with torch.no_grad():
        next_phi = slow.represent_state(slow_next)
        slow_psi, slow_psi_z = slow.represent_goal(slow_goal), slow.represent_goal(slow_intent)
        if no_intent:
            slow_psi_z = torch.ones_like(slow_psi_z)
        # 1. every head regresses on its own target head
        wanted = rewards + discount * masks * slow.value(next_phi, slow_psi, slow_psi_z)
        # 2. is this step good for who wants z? The weight comes from there, not from the error that is regressed
        next_value = slow.value(next_phi, slow_psi_z, slow_psi_z)
        next_value = next_value.amin(0) if min_q else next_value.mean(0)
        current = slow.value(slow.represent_state(slow_state), slow_psi_z, slow_psi_z).mean(0)
        advantage = intent_rewards + discount * intent_masks * next_value - current
        if no_intent:
            advantage = torch.zeros_like(advantage)
    return values, wanted, advantage, current


def _encode(network, images: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """No layer of the encoders mixes the batch: one call serves all images on a GPU. A CPU is a sixth faster without,
    what it works on stays nearer. (Numbers in place of pictures go together: a table encodes each of them once.)"""
    if images[0].is_cpu and images[0].is_floating_point():
        return tuple(whole(network.encode(image)) for image in images)
    return whole(network.encode(torch.cat(images))).chunk(len(images))


def whole(features: torch.Tensor) -> torch.Tensor:
    """Features of an encoder that ran in half precision, as float32."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
