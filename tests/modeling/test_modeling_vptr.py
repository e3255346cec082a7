"""What the goldens do not see: initialisation, every encoder, text, errors."""

import pytest
import torch

from hf_vpdd.modeling.vptr import VPTRConfig, VPTRForRobotPolicy, VPTRForValuePrediction
from hf_vpdd.modeling.vptr.value_heads import distance
from tests.pipelines.tiny_vptr import tiny_value_model, tiny_vptr_config


SMALL_BIT = {
    "layer_type": "preactivation", "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4,
    "global_padding": None,
}  # fmt: skip
BACKBONE = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
    "out_features": ["stage2"],
}  # fmt: skip


def test_actor_starts_small_and_layers_orthogonal():
    """Containers without parameters of their own are left out by transformers' initialisation: the layers know it."""
    policy = VPTRForRobotPolicy(VPTRConfig.tiny(image_size=16, latent_size=32, tasks=["a", "b"]))
    first = policy.actor.layers[0].weight
    product = (first.T @ first if first.shape[0] > first.shape[1] else first @ first.T).detach()
    assert torch.allclose(product, 2 * torch.eye(len(product)), atol=1e-4)
    assert policy.actor.mean.weight.abs().max() < 0.02 and policy.critics.out.weight.abs().max() < 0.02
    dense = policy.actor_bottleneck.dense.weight
    assert dense.std().item() == pytest.approx((2 / sum(dense.shape)) ** 0.5, rel=0.1)
    assert policy.log_temperature.item() == 0
    actions = policy(torch.rand(2, 3, 16, 16), torch.randn(2, 4), task_ids=torch.tensor([0, 1])).actions
    assert actions.abs().max() < 0.2


@pytest.mark.parametrize(
    "options",
    [{}, {"encoder": "bit", "bit_config": SMALL_BIT}, {"encoder": "backbone", "backbone_config": BACKBONE}],
    ids=["impala", "bit", "backbone"],
)
def test_every_encoder_saves_and_loads(tmp_path, options):
    config = tiny_vptr_config(image_size=32, **options)
    model = VPTRForValuePrediction(config).eval()
    pixels, goals = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert model.encode(pixels).shape == (2, config.feature_size)
    encoder = model.model.encoder
    assert torch.equal(encoder.pool(encoder.feature_map(pixels)), model.encode(pixels))
    model.save_pretrained(tmp_path)
    again, info = VPTRForValuePrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(again(pixels, goals).values, model(pixels, goals).values)
    assert again.config.feature_size == config.feature_size


def test_distance_head_for_the_compared_objectives():
    model, _ = tiny_value_model(value_head="distance", value_objective="vip", num_value_heads=1)
    pixels = torch.rand(3, 3, 16, 16)
    output = model(pixels, pixels.flip(0))
    embedded = model.value_heads.embedding(model.encode(pixels))
    assert torch.allclose(output.values[0], -(embedded - embedded.flip(0)).norm(dim=-1), atol=1e-5)
    assert output.values[0, 1].item() == 0
    point = torch.zeros(2, 3, requires_grad=True)
    distance(point, torch.tensor([[0.0, 0, 0], [3, 4, 0]])).sum().backward()
    assert torch.equal(point.grad, torch.tensor([[0, 0, 0], [-0.6, -0.8, 0]]))


def test_intent_in_words():
    model, processor = tiny_value_model(intent="text")
    words = processor.tokenize_instructions(["close the drawer", "open the window"])
    pixels = torch.rand(2, 3, 16, 16)
    values = model(pixels, **words).values
    assert values.shape == (2, 2)
    embeds = model.model.text_model(**words).text_embeds
    assert torch.allclose(model(pixels, intent_embeds=embeds).values, values)
    with pytest.raises(ValueError, match="intent as text"):
        model(pixels, intent_pixel_values=pixels)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"value_objective": "vip"}, "is not what"),
        ({"value_head": "distance"}, "one head"),
        ({"intent": "text"}, "text_config"),
        ({"encoder": "vit"}, "encoder must be"),
        ({"chunk_size": 2}, "chunk_size"),
    ],
)
def test_contradictions_in_the_config(options, says):
    with pytest.raises(Exception, match=says):
        VPTRConfig(**options)


def test_task_ids_and_images_that_do_not_fit():
    policy = VPTRForRobotPolicy(tiny_vptr_config())
    state = torch.zeros(1, 4)
    with pytest.raises(ValueError, match="table of tasks"):
        policy(torch.rand(1, 3, 16, 16), state, task_ids=torch.tensor([3]))
    with pytest.raises(ValueError, match="let the processor resize"):
        policy(torch.rand(1, 3, 24, 24), state, task_ids=torch.tensor([0]))
