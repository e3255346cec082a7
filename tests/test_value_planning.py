"""Value-guided planning: the best of N imagined futures, by a value learned from video."""

import json

import numpy as np
import pytest
import torch
from transformers import pipeline

from hf_vpdd.cli import main
from hf_vpdd.data.goal_frames import goal_frames
from hf_vpdd.errors import InputError
from hf_vpdd.inference import plan
from hf_vpdd.pipelines import VPDDPipeline
from hf_vpdd.policy import RobotPolicy
from hf_vpdd.saving import save_policy
from hf_vpdd.value_planning import ValueRanker, candidate_generators
from hf_vpdd.values import encode_frames, goal_values, image_goal, text_goal
from tests.pipelines.tiny_policy import SENTENCES, observation, tiny_policy
from tests.pipelines.tiny_vptr import tiny_value_model, tiny_vptr_policy
from tests.training.small_data import TASKS, write_dataset


N = 4
HOT = {"temperature": 1.0, "num_inference_steps": 2}


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def goal_images(number: int = 3) -> dict:
    rng = np.random.default_rng(9)
    # not the same number for each: the largest count decides, the others are repeated
    return {said: rng.integers(0, 256, (number - i, 24, 24, 3), dtype=np.uint8) for i, said in enumerate(SENTENCES)}


def text_ranker(**options) -> ValueRanker:
    return ValueRanker(*tiny_value_model(intent="text", **options))


def image_ranker(**options) -> ValueRanker:
    return ValueRanker(*tiny_value_model(**options), goals=goal_images())


RANKERS = {
    "text": text_ranker,
    "image": image_ranker,
    "monolithic": lambda: text_ranker(value_head="monolithic"),
    "distance": lambda: image_ranker(value_head="distance", num_value_heads=1, value_objective="vip"),
}


def separately(ranker: ValueRanker, picture: np.ndarray, said: str) -> float:
    """The value of one uint8 picture (H, W, 3), by the functions behind `hf-vpdd value`."""
    model, processor = ranker.model, ranker.processor
    features = encode_frames(model, processor.image_processor.frames_to_uint8(picture))
    if model.config.intent == "text":
        return float(goal_values(model, features, text_goal(model, processor, [said])).mean())
    images = processor.image_processor.frames_to_uint8(goal_images()[said])
    return max(float(goal_values(model, features, image_goal(model, image[None])).mean()) for image in images)


@pytest.mark.parametrize("kind", RANKERS)
def test_equals_a_loop_over_candidates(kind):
    """One batched call chooses what a loop over candidates, decoded whole and judged one by one, would choose."""
    ranker = RANKERS[kind]()
    policy = RobotPolicy(*tiny_policy(), value_model=ranker, num_candidates=N, **HOT)
    batch = [observation(i) for i in range(3)]
    found = policy.predict(batch, return_video=True, return_candidates=True, generator=generators(5, 6, 7))
    assert found.values.shape == (3, N) and found.values.dtype == np.float32
    assert found.candidate_actions.shape == (3, N, 3, 4) and found.candidate_videos.shape == (3, N, 1, 16, 16, 3)
    plain = RobotPolicy(*tiny_policy(), **HOT)
    for i, obs in enumerate(batch):
        rows = candidate_generators(generators(5 + i), 1, N)
        alone = [plain.predict(obs, return_video=True, generator=[row]) for row in rows]
        assert np.array_equal(found.candidate_actions[i], np.concatenate([a.actions for a in alone]))
        assert np.array_equal(found.candidate_videos[i], np.concatenate([a.video for a in alone]))
        values = [separately(ranker, a.video[0, -1], obs["instruction"]) for a in alone]
        assert np.allclose(found.values[i], values, atol=1e-5)
        assert found.chosen[i] == np.argmax(values)
        assert np.array_equal(found.actions[i], alone[np.argmax(values)].actions[0])
        assert np.array_equal(found.video[i], alone[np.argmax(values)].video[0])
    assert len({tuple(row) for row in found.candidate_videos.reshape(3 * N, -1)}) > 3  # candidates do differ
    assert len(set(found.chosen)) > 1 or found.chosen[0] > 0  # and it is not always the first that wins


def test_one_candidate_is_the_plan_of_today_bit_for_bit():
    model, processor = tiny_policy()
    today = RobotPolicy(model, processor, seed=3, **HOT)
    same = RobotPolicy(model, processor, seed=3, num_candidates=1, **HOT)
    judged = RobotPolicy(model, processor, seed=3, num_candidates=1, value_model=text_ranker(), **HOT)
    for batch in ([observation(1)], [observation(i) for i in range(3)]):
        want, got, valued = (p.predict(batch, return_video=True) for p in (today, same, judged))
        assert np.array_equal(got.actions, want.actions) and np.array_equal(got.video, want.video)
        assert np.array_equal(valued.actions, want.actions) and np.array_equal(valued.video, want.video)
        assert got.values is None and valued.values.shape == (len(batch), 1) and not valued.chosen.any()


def test_the_first_candidate_is_the_plan_without_candidates():
    model, processor = tiny_policy()
    plain = RobotPolicy(model, processor, **HOT)
    many = RobotPolicy(model, processor, value_model=text_ranker(), num_candidates=N, **HOT)
    batch = [observation(i) for i in range(2)]
    want = plain.predict(batch, generator=generators(1, 2)).actions
    assert np.array_equal(many.predict(batch, generator=generators(1, 2)).candidate_actions[:, 0], want)
    stream = torch.Generator().manual_seed(4)
    first = many.predict(batch[0], generator=stream).candidate_actions[0]
    assert np.array_equal(first[0], plain.predict(batch[0], generator=torch.Generator().manual_seed(4)).actions[0])
    assert not np.array_equal(many.predict(batch[0], generator=stream).candidate_actions[0], first)  # it goes on


def test_plans_do_not_depend_on_the_batch_and_seeds_repeat():
    many = RobotPolicy(*tiny_policy(), value_model=image_ranker(), num_candidates=N, seed=0, **HOT)
    batch = [observation(i) for i in range(3)]
    together = many.predict(batch, generator=generators(0, 1, 2))
    alone = many.predict(batch[2], generator=generators(2))
    assert np.array_equal(together.candidate_actions[2], alone.candidate_actions[0])
    first = many.select_action(batch)
    many.reset()
    many.seed(0)
    assert np.array_equal(many.select_action(batch), first)
    torch.manual_seed(1)
    free = RobotPolicy(*tiny_policy(), value_model=image_ranker(), num_candidates=N, **HOT)
    assert free.predict(batch).values.shape == (3, N)  # torch's global generator


def test_the_observation_is_encoded_once_for_all_candidates():
    policy = RobotPolicy(*tiny_policy(), value_model=text_ranker(), num_candidates=N, **HOT)
    rows: dict[str, list[int]] = {"encode_video": [], "embed_prompt": [], "keypoints": [], "decode": []}
    model = policy.model

    def counted(name, function, which=0):
        def call(*args, **kwargs):
            rows[name].append(len((args or tuple(kwargs.values()))[which]))
            return function(*args, **kwargs)

        return call

    model.model.encode_video = counted("encode_video", model.model.encode_video)
    model.model.embed_prompt = counted("embed_prompt", model.model.embed_prompt)
    model.action_head.keypoints.forward = counted("keypoints", model.action_head.keypoints.forward)
    model.model.vqvae.decode = counted("decode", model.model.vqvae.decode)
    policy.predict([observation(0), observation(1)])
    assert rows == {"encode_video": [2], "embed_prompt": [2], "keypoints": [2], "decode": [2 * N]}


@pytest.mark.parametrize("options", [{"action_steps": 2}, {"sampler": "halton"}, {"sampler": "entropy_bound"}])
def test_every_way_of_sampling_takes_candidates(options):
    policy = RobotPolicy(*tiny_policy(), value_model=text_ranker(), num_candidates=N, **HOT, **options)
    plain = RobotPolicy(*tiny_policy(), **HOT, **options)
    found = policy.predict(observation(1), generator=generators(3))
    alone = [
        plain.predict(observation(1), generator=[g]).actions[0] for g in candidate_generators(generators(3), 1, N)
    ]
    assert np.array_equal(found.candidate_actions[0], np.stack(alone))


def test_guidance_history_cameras_and_committed_actions():
    model, processor = tiny_policy(cameras=("corner2", "corner"))
    model.config.instruction_dropout = 0.1
    policy = RobotPolicy(
        model, processor, value_model=text_ranker(), num_candidates=N, real_time=True, execute=2, guidance_scale=2.0,
        **HOT,
    )  # fmt: skip
    plain = RobotPolicy(model, processor, real_time=True, execute=2, guidance_scale=2.0, **HOT)
    obs = observation(1, cameras=("corner2", "corner"))
    committed = np.asarray([[[0.5, -0.5, 0.0, 1.0]]], np.float32)
    found = policy.predict(obs, generator=generators(3), committed_actions=committed, return_candidates=True)
    rows = candidate_generators(generators(3), 1, N)
    alone = [
        plain.predict(obs, generator=[g], committed_actions=committed, return_video=True) for g in rows
    ]  # fmt: skip
    assert np.array_equal(found.candidate_actions[0], np.concatenate([a.actions for a in alone]))
    assert np.array_equal(found.candidate_videos[0], np.concatenate([a.video for a in alone]))
    # the value model looks through corner2, the left half
    values = [separately(policy.ranker, a.video[0, -1][:, :16], obs["instruction"]) for a in alone]
    assert np.allclose(found.values[0], values, atol=1e-5)
    long = RobotPolicy(*tiny_policy(history_frames=2), value_model=text_ranker(), num_candidates=2, **HOT)
    video = [long.select_action([observation(i), observation(i + 1)]) for i in range(4)]
    assert np.isfinite(video).all()


def test_samples_of_the_network_share_one_encoding():
    """`num_samples` beside repeated inputs, in the same order, with the same generators."""
    model, processor = tiny_policy()
    inputs = dict(processor.process_observations([observation(0), observation(1)]))
    repeated = {name: tensor.repeat_interleave(3, dim=0) for name, tensor in inputs.items()}
    for options in ({}, {"action_steps": 1}):
        shared = plan(model, processor, inputs, num_samples=3, generator=generators(*range(6)), **HOT, **options)
        plain = plan(model, processor, repeated, generator=generators(*range(6)), **HOT, **options)
        assert torch.equal(shared.actions, plain.actions) and torch.equal(shared.video_codes, plain.video_codes)
    one = plan(model, processor, repeated, generator=torch.Generator().manual_seed(1), **HOT)
    stream = plan(model, processor, inputs, num_samples=3, generator=torch.Generator().manual_seed(1), **HOT)
    assert torch.equal(one.actions, stream.actions)
    with pytest.raises(InputError, match="num_samples: must be a whole number"):
        plan(model, processor, inputs, num_samples=0)
    with pytest.raises(InputError, match="num_samples: behaviour cloning"):
        plan(*tiny_policy(objective="regression"), inputs, num_samples=2)


# ---- the other ways in ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("planning")
    save_policy(root / "policy", *tiny_policy())
    save_policy(root / "words", *tiny_value_model(intent="text"))
    save_policy(root / "images", *tiny_value_model())
    write_dataset(root / "data", episodes_per_task=3)
    return root


def test_the_pipeline_agrees_with_the_controller(folders):
    options = {"value_model": str(folders / "words"), "num_candidates": N, **HOT}
    controller = RobotPolicy.from_pretrained(folders / "policy", device="cpu", seed=3, **options)
    want = controller.predict(observation(1), return_video=True, return_candidates=True)
    pipe = pipeline("robot-policy", model=str(folders / "policy"), device="cpu", **options)
    got = pipe(observation(1), seed=3, return_video=True, return_candidates=True)
    assert set(got) == {"actions", "video", "values", "chosen", "candidate_actions", "candidate_videos"}
    for name, value in got.items():
        assert np.array_equal(value, getattr(want, name)[0]), name
    assert set(pipe(observation(1))) == {"actions", "values", "chosen", "candidate_actions"}
    batch = [observation(i) for i in range(3)]
    for plans in (pipe(batch), pipe(batch, batch_size=2)):
        assert [p["values"].shape for p in plans] == [(N,)] * 3
    later = pipeline("robot-policy", model=str(folders / "policy"), device="cpu")
    assert set(later(observation(1))) == {"actions"}
    again = later(observation(1), seed=3, **options)
    assert np.array_equal(again["values"], got["values"]) and "values" not in later(observation(1))
    with pytest.raises(InputError, match="value_model that chooses"):
        later(observation(1), num_candidates=2)
    with pytest.raises(InputError, match="return_candidates"):
        later(observation(1), return_candidates=True)


def test_the_diffusers_pipeline_says_what_its_samples_are_worth(folders):
    pipe = VPDDPipeline.from_pretrained(folders / "policy")
    pipe.set_progress_bar_config(disable=True)
    ranker = text_ranker()
    obs = [observation(i) for i in range(2)]
    given = ([o["images"] for o in obs], [o["instruction"] for o in obs], np.stack([o["state"] for o in obs]))
    rows = candidate_generators(generators(5, 6), 2, N)
    out = pipe(*given, num_samples=N, generator=rows, value_model=ranker, **HOT)
    want = RobotPolicy(pipe.model, pipe.processor, value_model=ranker, num_candidates=N, **HOT).predict(
        obs, generator=generators(5, 6)
    )
    assert np.array_equal(out.values, want.values)
    assert np.array_equal(out.actions.reshape(2, N, 3, 4), want.candidate_actions)
    longer = pipe(*given, num_samples=2, num_clips=2, generator=generators(*range(4)), value_model=ranker)
    picture = (longer.videos[3, -1] * 255).round().astype(np.uint8)
    assert np.isclose(longer.values[1, 1], separately(ranker, picture, obs[1]["instruction"]), atol=1e-5)
    plain = pipe(*given, num_samples=N, generator=candidate_generators(generators(5, 6), 2, N), **HOT)
    assert plain.values is None and np.array_equal(plain.videos, out.videos)
    videos, actions, values = pipe(
        *given, value_model=str(folders / "images"), value_goals=goal_images(), return_dict=False
    )
    assert values.shape == (2, 1)


def test_goals_are_the_last_frames_of_demonstrations(folders):
    from hf_vpdd.data import LeRobotDataset

    dataset = LeRobotDataset(folders / "data")
    found = goal_frames(dataset, "corner2", per_instruction=2)
    assert set(found) == set(TASKS) and all(frames.shape == (2, 32, 32, 3) for frames in found.values())
    of_it = [e for e, said in enumerate(dataset.episodes.task) if said == TASKS[1]]
    assert np.array_equal(found[TASKS[1]][0], dataset.frames("corner2", of_it[0])[-1])
    assert np.array_equal(found[TASKS[1]][1], dataset.frames("corner2", of_it[-1])[-1])
    ranker = ValueRanker.from_pretrained(folders / "images", folders / "data", "cpu")
    assert {said: frames.shape for said, frames in ranker.goals.items()} == dict.fromkeys(TASKS, (3, 3, 16, 16))
    with pytest.raises(InputError, match="no demonstration of 'fly'"):
        goal_frames(dataset, "corner2", instructions=["fly"])
    with pytest.raises(InputError, match="camera"):
        goal_frames(dataset, "wrist")


def test_eval_takes_a_value_model(folders, tmp_path, capsys):
    words = (
        f"eval --policy {folders / 'policy'} --tasks drawer-close --episodes 1 --max-steps 4 --videos 1 --workers 0"
    )
    guided = f"--value-model {folders / 'words'} --num-candidates 2"
    out = tmp_path / "eval"
    assert main([*words.split(), *guided.split(), "--out", str(out)]) == 0
    run = json.loads((out / "run.json").read_text())["policy"]["value_planning"]
    assert run["num_candidates"] == 2 and len(run["value_model"]) == 64
    assert main([*words.split(), "--out", str(out), "--resume"]) == 2  # another way of planning, other results
    for options, message in (
        ("--num-candidates 2", "value_model that chooses"),
        (f"--value-model {folders / 'images'} --num-candidates 2", "value_goals: missing"),
        (f"--value-model {folders / 'images'} --value-goals {folders / 'nothing'}", "nothing"),
        (f"--value-model {folders / 'policy'}", "not a value model"),
    ):
        capsys.readouterr()
        assert main([*words.split(), *options.split(), "--out", str(tmp_path / "no")]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_eval_misses_a_goal_before_the_first_episode(folders, tmp_path, capsys):
    words = f"eval --policy {folders / 'policy'} --tasks reach --episodes 1 --workers 0 --out {tmp_path / 'no'}"
    guided = f"--value-model {folders / 'images'} --num-candidates 2 --value-goals {folders / 'data'}"
    assert main([*words.split(), *guided.split()]) == 2
    assert "no goal for the instruction" in capsys.readouterr().err and not (tmp_path / "no").exists()


# ---- what does not fit ----------------------------------------------------------------------------------------------


def _other_camera():
    model, processor = tiny_value_model(intent="text")
    processor.cameras = ["wrist"]
    return model, processor


def _larger():
    from hf_vpdd import VPTRProcessor

    model, _ = tiny_value_model(image_size=32)
    return ValueRanker(model, VPTRProcessor(image_size=32, condition="none"), goal_images())


@pytest.mark.parametrize(
    ("policy", "options", "says"),
    [
        ({}, {"num_candidates": 2}, "value_model that chooses"),
        ({}, {"num_candidates": 0, "value_model": text_ranker}, "num_candidates: must be"),
        ({}, {"num_candidates": 2.5, "value_model": text_ranker}, "num_candidates: must be"),
        ({}, {"value_model": tiny_value_model}, "value_goals: missing"),
        ({}, {"value_goals": goal_images}, "value_model, which is missing"),
        ({}, {"value_model": text_ranker, "value_goals": goal_images}, "has its goals already"),
        ({}, {"value_model": _other_camera}, "camera 'wrist'"),
        ({}, {"value_model": _larger}, "reads pictures of 32 px, the policy imagines 16 px"),
        ({}, {"value_model": tiny_vptr_policy}, "no value model"),
        ({}, {"value_model": lambda: 3}, "expected a folder"),
        ({}, {"value_model": text_ranker, "num_candidates": 2, "video_temperature": 0.0}, "would be alike"),
        ({"objective": "regression"}, {"value_model": text_ranker, "num_candidates": 2}, "draws no futures"),
    ],
)
def test_mismatches_are_said_at_construction(policy, options, says):
    options = {name: value() if callable(value) else value for name, value in options.items()}
    with pytest.raises(InputError, match=says):
        RobotPolicy(*tiny_policy(**policy), **options)


def test_other_families_have_nothing_to_choose_between():
    with pytest.raises(InputError, match="draws no futures"):
        RobotPolicy(*tiny_vptr_policy(), value_model=text_ranker(), num_candidates=2)


def test_an_instruction_without_a_goal():
    goals = {SENTENCES[0]: goal_images()[SENTENCES[0]]}
    policy = RobotPolicy(*tiny_policy(), value_model=tiny_value_model(), value_goals=goals, num_candidates=2)
    assert policy.predict(observation(0)).values.shape == (1, 2)
    with pytest.raises(InputError, match="no goal for the instruction 'close the drawer'"):
        policy.predict(observation(1))


def test_the_fingerprint_knows_weights_and_goals():
    one, same, weights = image_ranker(), image_ranker(), image_ranker(seed=1)
    other = ValueRanker(*tiny_value_model(), goals={SENTENCES[0]: np.zeros((16, 16, 3), np.uint8)})
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, weights.fingerprint, other.fingerprint}) == 3
