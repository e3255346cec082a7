import numpy as np
import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vptr.processing_vptr import VPTRProcessor
from tests.pipelines.tiny_policy import SENTENCES, demonstrations, observation
from tests.pipelines.tiny_vptr import tiny_vptr_policy


@pytest.fixture
def processor():
    return tiny_vptr_policy()[1]


def test_pixels_are_bytes_over_255_and_nothing_else(processor):
    frame = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels = processor({"corner2": frame}).pixel_values
    assert pixels.shape == (1, 3, 16, 16)
    assert torch.equal(pixels[0], torch.from_numpy(frame).movedim(-1, 0).float() / 255)
    assert processor(np.zeros((2, 48, 64, 3), np.uint8)).pixel_values.shape == (2, 3, 16, 16)


def test_actions_there_and_back():
    processor = VPTRProcessor(action_low=[-0.05, 0.0], action_high=[0.05, 1.0], image_size=16)
    actions = torch.tensor([[-0.05, 0.0], [0.0, 0.5], [0.025, 1.0], [0.2, 0.25]])
    scaled = processor.normalize_actions(actions)
    assert torch.allclose(scaled, torch.tensor([[-0.99, -0.99], [0, 0], [0.5, 0.99], [0.99, -0.5]]))
    back = processor.post_process_actions(scaled[:, None])
    assert back.shape == (4, 1, 2)
    assert torch.allclose(back[1:3, 0, 0], actions[1:3, 0]) and float(back[3, 0, 0]) == pytest.approx(0.0495)
    assert torch.equal(processor.unnormalize_actions(torch.tensor([[2.0, -2.0]])), torch.tensor([[0.05, 0.0]]))


def test_statistics_of_demonstrations():
    actions, state = demonstrations()
    processor = VPTRProcessor.from_dataset_stats(actions, state, image_size=16)
    normal = processor.normalize_state(state)
    assert torch.allclose(normal.mean(0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(normal.std(0), torch.ones(4), atol=1e-2)
    assert processor.action_low == actions.min(0).astype(np.float64).tolist()
    still = actions.copy()
    still[:, 2] = 0.5
    with pytest.raises(InputError, match="dimension 2 never moves"):
        VPTRProcessor.from_dataset_stats(still, state)


def test_observations_of_every_condition():
    goal = np.zeros((24, 24, 3), np.uint8)
    for condition, names in {
        "task": ["task_ids"],
        "text": ["input_ids", "attention_mask"],
        "goal_image": ["goal_pixel_values"],
        "none": [],
    }.items():
        model, processor = tiny_vptr_policy(condition=condition)
        inputs = processor.process_observations([{**observation(i), "goal": goal} for i in range(3)])
        assert set(inputs) == {"pixel_values", "state", *names}, condition
        assert set(inputs) == set(processor.model_input_names)
        assert model(**inputs).actions.shape == (3, 1, 4)
    assert tiny_vptr_policy()[1].process_observations([observation(i) for i in range(3)]).task_ids.tolist() == [
        0,
        1,
        2,
    ]


@pytest.mark.parametrize(
    "change, says",
    [
        ({"instruction": "make coffee"}, "not in the policy's table of 3 tasks"),
        ({"instruction": 3}, "not in the policy's table"),
        ({"instruction": None}, "'instruction' is missing"),
        ({"state": np.zeros(3)}, "expected 4 numbers"),
        ({"state": np.array([0, np.nan, 0, 0])}, "finite"),
        ({"images": {"other": np.zeros((8, 8, 3), np.uint8)}}, "corner2"),
        ({"images": {"corner2": np.zeros((2, 8, 8, 3), np.uint8)}}, "the newest one only"),
        ({"images": {"corner2": np.zeros((8, 8, 3))}}, "uint8"),
    ],
)
def test_bad_observations_are_named(processor, change, says):
    with pytest.raises(InputError, match=says):
        processor.process_observations([{**observation(), **change}])


@pytest.mark.parametrize(
    "options, says",
    [
        ({"cameras": ["a", "b"]}, "one camera"),
        ({"condition": "telepathy"}, "condition"),
        ({"condition": "text"}, "tokenizer"),
        ({"action_low": [0.0]}, "give both"),
        ({"action_low": [0.0], "action_high": [0.0]}, "below action_high"),
        ({"tasks": ["a", "a"]}, "distinct"),
        ({"execute": 4}, "one step"),
        ({"state_stats": {"mean": [0.0]}}, "'std'"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(InputError, match=says):
        VPTRProcessor(image_size=16, **options)


def test_statistics_are_asked_for(processor):
    bare = VPTRProcessor(image_size=16, tasks=SENTENCES)
    with pytest.raises(InputError, match="action_low: this processor has none"):
        bare.require_policy_statistics(4)
    with pytest.raises(InputError, match="4 state dimensions, the model expects 7"):
        processor.require_policy_statistics(7)


@pytest.mark.parametrize("condition", ["task", "text"])
def test_saved_and_loaded(tmp_path, condition):
    processor = tiny_vptr_policy(condition=condition)[1]
    processor.save_pretrained(tmp_path)
    again = VPTRProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict() and (again.tokenizer is None) == (condition == "task")
    first, second = (p.process_observations([observation(1)]) for p in (processor, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
