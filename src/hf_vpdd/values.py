"""From frames and a goal to values: the one path that training's evaluation, the command line and planning share."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .errors import InputError


@dataclass
class Goal:
    """A goal as a value model takes it: features (1, F) or (N, F), of an image or a sentence."""

    features: torch.Tensor


@torch.no_grad()
def encode_frames(model, frames: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """Frames uint8 (T, 3, S, S) or float in [0, 1] -> features (T, F) on the model's device."""
    parts = []
    for part in frames.split(batch_size):
        part = part.to(model.device)
        part = part.float() / 255 if part.dtype == torch.uint8 else part
        parts.append(model.encode(part.to(model.dtype)))
    return torch.cat(parts)


@torch.no_grad()
def image_goal(model, frames: torch.Tensor) -> Goal:
    """Goal images, as `encode_frames` takes them."""
    return Goal(encode_frames(model, frames))


@torch.no_grad()
def text_goal(model, processor, sentences: list[str]) -> Goal:
    """Goals in words.

    Raises:
        InputError: The model was trained with goal images only.
    """
    if model.config.intent != "text":
        raise InputError(
            "goal: this value model knows goals as images only (intent is 'image') and reads no sentence: name a "
            "frame, or train one with model.intent text"
        )
    words = {name: tensor.to(model.device) for name, tensor in processor.tokenize_instructions(sentences).items()}
    return Goal(model.embed_intent(**words))


@torch.no_grad()
def goal_values(model, features: torch.Tensor, goal: Goal) -> torch.Tensor:
    """V(s, g, g) of states (T, F) toward one goal, or one goal each -> (E, T), every head by itself."""
    heads = model.value_heads
    psi = heads.represent_goal(goal.features)
    psi = psi.expand(-1, len(features), -1)
    return heads.value(heads.represent_state(features), psi, psi)


def attention_map(model, pixels: torch.Tensor, goal: Goal) -> torch.Tensor:
    """Where the value of each frame looks, by Grad-CAM (arXiv 1610.02391) on the encoder's last feature map.

    For encoders that average the map it is Grad-CAM itself. Those that keep its places (IMPALA) have a slope of their
    own at each, which is not averaged away (HiResCAM, arXiv 2011.08891). Values are costs, so what lowers them counts
    as much as what raises them: the magnitude is shown.

    Args:
        pixels: (T, 3, S, S) in [0, 1]. goal: one, or one for each frame.

    Returns:
        (T, S, S) in [0, 1], each frame scaled to its own maximum: how much V depends on what is seen there.
    """
    encoder, heads = model.model.encoder, model.value_heads
    pixels = pixels.to(model.device, model.dtype)
    with torch.no_grad():
        maps = encoder.feature_map(pixels)
    with torch.enable_grad():
        maps = maps.detach().requires_grad_()
        psi = heads.represent_goal(goal.features).detach().expand(-1, len(pixels), -1)
        value = heads.value(heads.represent_state(encoder.pool(maps)), psi, psi).mean(0)
        slope = torch.autograd.grad(value.sum(), maps)[0]
    heat = (slope * maps.detach()).sum(1, keepdim=True).abs()
    heat = F.interpolate(heat.float(), size=pixels.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((-2, -1), keepdim=True).clamp_min(1e-12)


def load_value_model(path, device: str | torch.device | None = None):
    """(VPTRForValuePrediction, VPTRProcessor) of one folder or Hub repository.

    Raises:
        InputError: There is none, or it holds another kind of model.
    """
    from .modeling.vptr import VPTRConfig, VPTRForValuePrediction
    from .modeling.vptr.processing_vptr import VPTRProcessor

    try:
        found, _ = VPTRConfig.get_config_dict(path)
    except OSError as error:
        raise InputError(f"model: {path} is neither a folder with a saved model nor on the Hub: {error}") from error
    kind = (found.get("architectures") or ["?"])[0]
    if kind != "VPTRForValuePrediction":
        raise InputError(
            f"model: {path} holds a {kind}, not a value model (VPTRForValuePrediction). Train one with "
            "training/pretrain.py --model vptr"
        )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VPTRForValuePrediction.from_pretrained(path).to(device).eval()
    return model, VPTRProcessor.from_pretrained(path)
