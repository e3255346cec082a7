import numpy as np
import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.modeling.vpdd import VPDDForRobotPolicy, VPDDForVideoPrediction
from hf_vpdd.policy import RobotPolicy
from hf_vpdd.registration import DEFAULT_CHECKPOINT
from hf_vpdd.saving import save_policy
from tests.pipelines.tiny_policy import demonstrations, observation, tiny_policy, tiny_processor


# one step from all-masked to clean, likeliest tokens: nothing is left to chance
GREEDY = {"temperature": 0.0, "video_temperature": 0.0, "num_inference_steps": 1}


def _watch(policy: RobotPolicy) -> list[dict]:
    """Records the inputs of every call of the model; the real model still answers."""
    calls, original = [], policy.model.sample_actions

    def sample_actions(**inputs):
        calls.append(inputs)
        return original(**inputs)

    policy.model.sample_actions = sample_actions
    return calls


def test_predict_returns_robot_units_and_a_video():
    policy = RobotPolicy(*tiny_policy(), seed=0)
    output = policy.predict([observation(i) for i in range(3)], return_video=True)
    assert output.actions.shape == (3, 3, 4) and output.actions.dtype == np.float32
    assert output.video.shape == (3, 1, 16, 16, 3) and output.video.dtype == np.uint8
    for dim, entry in enumerate(policy.processor.action_bins):
        assert np.isin(output.actions[..., dim], np.array(entry["decode"], dtype=np.float32)).all()
    assert policy.predict(observation()).video is None


def test_a_batch_gives_each_environment_what_it_would_get_alone():
    policy = RobotPolicy(*tiny_policy(), **GREEDY)
    batch = [observation(i) for i in range(4)]
    together = policy.predict(batch).actions
    assert len(np.unique(together.reshape(4, -1), axis=0)) > 1  # the plans do depend on the observation
    for obs, plan in zip(batch, together):
        assert np.array_equal(policy.predict(obs).actions[0], plan)


def test_a_seed_repeats_everything():
    policy = RobotPolicy(*tiny_policy(), seed=3, temperature=1.0, num_inference_steps=3)
    batch = [observation(i) for i in range(8)]
    first, second = policy.predict(batch).actions, policy.predict(batch).actions
    assert not np.array_equal(first, second)  # one stream: it goes on
    policy.seed(3)
    assert np.array_equal(policy.predict(batch).actions, first)
    policy.to("cpu")
    assert np.array_equal(policy.predict(batch).actions, first)
    own = torch.Generator().manual_seed(3)  # of one call, beside the policy's stream
    assert np.array_equal(policy.predict(batch, generator=own).actions, first)
    assert np.array_equal(policy.predict(batch).actions, second)


def test_with_a_generator_each_plans_do_not_depend_on_their_company():
    policy = RobotPolicy(*tiny_policy(), temperature=2.0, num_inference_steps=3)
    batch = [observation(0)] * 3

    def generators(seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = policy.predict(batch, generator=generators([5, 6, 7])).actions
    assert not np.array_equal(together[0], together[1])
    for seed, plan in zip([7, 5], together[[2, 0]]):
        assert np.array_equal(policy.predict(batch[:1], generator=generators([seed])).actions[0], plan)
    with pytest.raises(InputError, match="generator: 2 of them for a batch of 3"):
        policy.predict(batch, generator=generators([1, 2]))


def test_the_queue_hands_out_the_plan_and_asks_again():
    policy = RobotPolicy(*tiny_policy(), execute=2, **GREEDY)
    first, second = observation(0), observation(1)
    plan_first, plan_second = policy.predict(first).actions[0], policy.predict(second).actions[0]
    calls = _watch(policy)
    steps = [policy.select_action(obs) for obs in (first, second, second, first, first)]
    # steps 0 and 1 of the plan made at `first`, then of the one made at `second`, then a new one
    assert np.array_equal(np.stack(steps), np.concatenate([plan_first[:2], plan_second[:2], plan_first[:1]]))
    assert len(calls) == 3
    assert steps[0].shape == (4,) and steps[0].dtype == np.float32


def test_only_empty_queues_are_planned_and_all_in_one_call():
    policy = RobotPolicy(*tiny_policy(), execute=3, **GREEDY)
    calls = _watch(policy)
    batch = [observation(i) for i in range(4)]
    assert policy.select_action(batch).shape == (4, 4)
    policy.reset(env_ids=[1, 3])
    replanned = policy.select_action(batch)
    assert [len(call["pixel_values"]) for call in calls] == [4, 2]
    alone = policy.predict(batch).actions
    assert np.array_equal(replanned[1], alone[1][0]) and np.array_equal(replanned[0], alone[0][1])
    policy.reset()
    policy.select_action(batch[2:], env_ids=[2, 3])
    assert [len(call["pixel_values"]) for call in calls][-1] == 2


def test_frames_are_not_needed_while_a_plan_is_carried_out():
    policy = RobotPolicy(*tiny_policy(), execute=2)
    policy.select_action(observation())
    assert policy.select_action({"instruction": "unused"}).shape == (4,)
    with pytest.raises(InputError, match="observation 0"):
        policy.select_action({"instruction": "close the drawer"})


def test_history_per_environment_with_stride_and_black_start():
    model, processor = tiny_policy(history_frames=3)
    processor.history_stride = 2
    policy = RobotPolicy(model, processor, execute=1, **GREEDY)
    calls = _watch(policy)

    def grey(level):
        return {**observation(), "images": {"corner2": np.full((16, 16, 3), level, dtype=np.uint8)}}

    def seen(row):
        return ((calls[-1]["pixel_values"][row, 0, :, 0, 0, 0] + 0.5) * 255).round().int().tolist()

    for step in range(6):
        policy.select_action([grey(10 + step), grey(100 + step)])
        if step == 1:
            assert seen(0) == [0, 0, 11]  # two steps before the first frame there was nothing
    assert seen(0) == [11, 13, 15] and seen(1) == [101, 103, 105]
    policy.reset(env_ids=0)
    policy.select_action([grey(50), grey(106)])
    assert seen(0) == [0, 0, 50] and seen(1) == [102, 104, 106]
    policy.reset()
    buffer = grey(0)
    for level in (1, 2, 3):  # a camera that writes every frame into the same memory
        buffer["images"]["corner2"][:] = level
        policy.select_action([buffer])
    assert seen(0) == [0, 1, 3]


def test_regression_is_decoded_as_such_and_has_no_video():
    model, processor = tiny_policy(objective="regression")
    policy = RobotPolicy(model, processor)
    actions = policy.predict(observation()).actions
    inputs = processor.process_observations([observation()])
    raw = model.sample_actions(**inputs).actions
    low, high = demonstrations()[0].min(axis=0), demonstrations()[0].max(axis=0)
    assert np.allclose(actions, low + (raw.numpy() + 1) / 2 * (high - low), atol=1e-5)
    with pytest.raises(InputError, match="imagines no future"):
        policy.predict(observation(), return_video=True)


def test_the_model_is_put_into_evaluation_mode_and_keeps_no_graph():
    model, processor = tiny_policy()
    policy = RobotPolicy(model.train(), processor)
    policy.predict(observation())
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_half_precision_weights_are_fed_half_precision():
    model, processor = tiny_policy()
    output = RobotPolicy(model.to(torch.bfloat16), processor).predict(observation(), return_video=True)
    assert np.isfinite(output.actions).all()


def test_several_cameras_lie_side_by_side_in_the_video():
    cameras = ("left", "wrist")
    policy = RobotPolicy(*tiny_policy(cameras=cameras))
    assert policy.predict(observation(cameras=cameras), return_video=True).video.shape == (1, 1, 16, 32, 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"chunk_size": 4}, "disagree about the chunk_size: 4 and 3"),
        ({"num_action_bins": 9}, "disagree about the num_action_bins: 9 and 7"),
        ({"image_size": 32}, "disagree about the image size: 32 and 16"),
        ({"history_frames": 2}, "disagree about the history_frames"),
        ({"cameras": ["a", "b"]}, "disagree about the number of cameras: 2 and 1"),
        ({"action_objective": "regression"}, "disagree about the action_objective"),
        ({"max_instruction_length": 99}, "disagree about the instruction"),
    ],
)
def test_weights_and_processor_of_different_runs_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RobotPolicy(tiny_policy()[0], tiny_processor(**options))


def test_a_processor_without_statistics_is_refused():
    model, processor = tiny_policy()
    for name in ("action_bins", "state_stats"):
        config = {**processor.to_dict(), name: None}
        for key in ("image_processor", "processor_class", "tokenizer"):
            config.pop(key, None)
        bare = type(processor)(processor.image_processor, processor.tokenizer, **config)
        with pytest.raises(InputError, match=f"{name}: this processor has none"):
            RobotPolicy(model, bare)
    with pytest.raises(InputError, match="processor: missing"):
        RobotPolicy(model, None)


def test_an_observation_that_is_no_dictionary_is_told_so():
    for history_frames in (1, 3):  # looked at where the history is kept, and where there is none
        policy = RobotPolicy(*tiny_policy(history_frames=history_frames), **GREEDY)
        with pytest.raises(InputError, match="observation.*: expected a dictionary with 'images'.*got ndarray"):
            policy.select_action(np.zeros((16, 16, 3), np.uint8))


def test_bad_options_are_named():
    model, processor = tiny_policy()
    for execute in (0, 4):
        with pytest.raises(InputError, match=r"execute: must lie in 1..3"):
            RobotPolicy(model, processor, execute=execute)
    with pytest.raises(InputError, match=r"num_inference_steps: must lie in 1..100, got 0"):
        RobotPolicy(model, processor, num_inference_steps=0).predict(observation())
    with pytest.raises(InputError, match="temperature: must be 0"):
        RobotPolicy(model, processor, temperature=-1.0).predict(observation())
    with pytest.raises(InputError, match="env_ids: expected one distinct id"):
        RobotPolicy(model, processor).select_action([observation(), observation()], env_ids=[1, 1])


def test_from_pretrained(tmp_path):
    model, processor = tiny_policy()
    save_policy(tmp_path / "policy", model, processor)
    policy = RobotPolicy.from_pretrained(tmp_path / "policy", execute=2, device="cpu", **GREEDY)
    assert type(policy.model) is VPDDForRobotPolicy and policy.execute == 2
    batch = [observation(i) for i in range(3)]
    assert np.array_equal(
        policy.predict(batch).actions, RobotPolicy(model, processor, **GREEDY).predict(batch).actions
    )


def test_what_is_no_policy_is_refused(tmp_path):
    model, processor = tiny_policy()
    pretrained = VPDDForVideoPrediction(model.config)
    with pytest.raises(InputError, match="VPDDForVideoPrediction predicts no actions"):
        RobotPolicy(pretrained, processor)
    # from_pretrained would start the missing action head at random and control a robot with it
    save_policy(tmp_path / "pretrained", pretrained, processor)
    with pytest.raises(InputError, match="holds a VPDDForVideoPrediction, not a policy"):
        RobotPolicy.from_pretrained(tmp_path / "pretrained")
    with pytest.raises(InputError, match="does not exist"):
        RobotPolicy.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no config.json"):
        RobotPolicy.from_pretrained(tmp_path / "empty")
    model.save_pretrained(tmp_path / "weights alone")
    with pytest.raises(InputError, match="has no processor_config.json"):
        RobotPolicy.from_pretrained(tmp_path / "weights alone")


def test_a_fine_tuned_model_that_began_as_a_video_model_may_control(tmp_path):
    model, processor = tiny_policy()
    VPDDForVideoPrediction(model.config).save_pretrained(tmp_path)
    fine_tuned = VPDDForRobotPolicy.from_pretrained(tmp_path)
    assert RobotPolicy(fine_tuned, processor).predict(observation()).actions.shape == (1, 3, 4)


@pytest.mark.skipif(DEFAULT_CHECKPOINT.exists(), reason="the checkpoint is there")
def test_without_the_shipped_checkpoint_the_error_says_so():
    with pytest.raises(InputError, match="ships with the package is missing"):
        RobotPolicy.from_pretrained()


# ---- samplers, two phases, real time -------------------------------------------------------------------------------


def test_sampling_options_reach_the_model_and_only_given_ones_are_recorded():
    model, processor = tiny_policy()
    assert set(RobotPolicy(model, processor).sampling) == {"num_inference_steps", "temperature", "video_temperature"}
    policy = RobotPolicy(model, processor, sampler="confidence", action_steps=2, num_inference_steps=3, seed=1)
    calls = _watch(policy)
    assert policy.predict(observation(), return_video=True).video.shape == (1, 1, 16, 16, 3)
    assert (calls[0]["sampler"], calls[0]["action_steps"], calls[0]["num_inference_steps"]) == ("confidence", 2, 3)
    assert policy.sampling["sampler"] == "confidence" and "guidance_scale" not in policy.sampling


def test_committed_actions_come_back_in_robot_units():
    policy = RobotPolicy(*tiny_policy(), temperature=3.0, seed=0)
    batch = [observation(i) for i in range(3)]
    old = policy.predict(batch).actions
    new = policy.predict(batch, committed_actions=old[:, 1:]).actions
    assert np.array_equal(new[:, :2], old[:, 1:])
    for actions, message in (
        (old, "n < 3, the chunk"),
        (old[:, :1, :3], r"expected \(B, n, 4\)"),
        (old[0], r"expected \(B, n, 4\)"),
        (np.full((3, 1, 4), np.nan, np.float32), "not all are finite"),
        (np.full((3, 1, 4), 7.0, np.float32), "outside of the bins' range"),
        (old[:2, :1], "batch sizes differ: .*committed_actions 2"),
    ):
        with pytest.raises(InputError, match=message):
            policy.predict(batch, committed_actions=actions)


def test_in_real_time_a_plan_begins_with_what_the_last_one_left():
    policy = RobotPolicy(*tiny_policy(), execute=2, real_time=True, temperature=3.0, num_inference_steps=2, seed=0)
    plans, original = [], policy.predict

    def predict(*args, **kwargs):
        output = original(*args, **kwargs)
        plans.append((kwargs["committed_actions"], output.actions))
        return output

    policy.predict = predict
    batch = [observation(0), observation(1)]
    steps = np.stack([policy.select_action(batch) for _ in range(6)])
    assert len(plans) == 3 and plans[0][0] is None
    for (_, before), (committed, after) in zip(plans, plans[1:]):
        assert np.array_equal(committed, before[:, 2:])  # one action of three was not carried out
        assert np.array_equal(after[:, :1], committed)  # and the robot goes on with it
    executed = np.concatenate([actions[:, :2] for _, actions in plans], axis=1)
    assert np.array_equal(steps, executed.swapaxes(0, 1))

    # an environment that begins anew commits nothing; the other goes on
    plans.clear()
    policy.reset(env_ids=0)
    policy.select_action(batch)
    assert [None if committed is None else committed.shape for committed, _ in plans] == [None, (1, 1, 4)]
    whole = RobotPolicy(policy.model, policy.processor, real_time=True, seed=0)  # execute = chunk: nothing is left
    assert [whole.select_action(observation()).shape for _ in range(4)] == [(4,)] * 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sampler": "dpm"}, "sampler: 'dpm' is none of ancestral, confidence, entropy_bound, halton"),
        ({"action_steps": 0}, "action_steps: must lie in 1..100, got 0"),
        ({"guidance_scale": 2.0}, "instruction_dropout = 0"),
        ({"guidance_scale": -2.0}, "guidance_scale"),
        ({"num_inference_steps": 1.5}, "num_inference_steps"),
    ],
)
def test_impossible_sampling_is_refused_before_the_robot_moves(options, message):
    with pytest.raises(InputError, match=message):
        RobotPolicy(*tiny_policy(), **options)


def test_behaviour_cloning_refuses_what_needs_a_chain():
    model, processor = tiny_policy(objective="regression")
    for options in ({"sampler": "halton"}, {"action_steps": 1}, {"real_time": True}):
        with pytest.raises(InputError, match="behaviour cloning"):
            RobotPolicy(model, processor, **options)
    with pytest.raises(InputError, match="behaviour cloning"):
        RobotPolicy(model, processor).predict(observation(), committed_actions=np.zeros((1, 1, 4), np.float32))
