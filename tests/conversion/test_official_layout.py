"""The checkpoints that the tests invent have the real ones' layout: names and shapes of the golden manifests."""

import pytest

from tests.modeling.official import manifest

from .official_layout import Sizes, policy_layout, schedule, tokenizer_layout


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        ("vqvae", tokenizer_layout(Sizes())),
        ("pretrain_meta", policy_layout(Sizes(), "pretrain")),
        ("finetune_meta", policy_layout(Sizes(), "metaworld")),
        ("finetune_rlbench", policy_layout(Sizes(bins=360, head_positions=3358), "rlbench")),
    ],
)
def test_names_and_shapes(model, layout):
    assert {name: tuple(entry["shape"]) for name, entry in manifest(model).items()} == layout


def test_all_twelve_buffers_are_there():
    assert len(schedule(Sizes())) == 12
