"""RobotPolicy on GR-1: the rolling window of the released controller, without doing anything twice."""

import numpy as np
import pytest
import torch

from hf_vpdd import RobotPolicy
from hf_vpdd.errors import InputError
from tests.pipelines.tiny_gr1 import CAMERAS, gr1_episode, plain_actions, tiny_gr1_policy


class Watch:
    """What went into the towers, and network units of what came out; the real network answers."""

    def __init__(self, policy: RobotPolicy):
        self.frames, self.texts, self.batches, self.actions = [], [], [], []
        core, sample = policy.model.model, policy.model.sample_actions
        images, text = core.encode_images, core.encode_text

        def encode_images(pixel_values):
            self.frames += list(pixel_values.transpose(0, 1).flatten(0, 2))
            return images(pixel_values)

        def encode_text(input_ids, attention_mask=None):
            self.texts += input_ids.tolist()
            return text(input_ids, attention_mask)

        def sample_actions(**inputs):
            self.batches.append({name: getattr(value, "shape", value) for name, value in inputs.items()})
            output = sample(**inputs)
            self.actions += list(output.actions.numpy())
            return output

        core.encode_images, core.encode_text, policy.model.sample_actions = encode_images, encode_text, sample_actions


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"history_stride": 2},
        {"chunk_size": 3, "foresight_attention": True},
        {"num_views": 1, "state_dim": 0, "binary_gripper_action": False},
    ],
    ids=["official", "stride", "foresight", "bare"],
)
def test_thirty_steps_as_with_the_plain_window(options):
    model, processor = tiny_gr1_policy(execute=1, **options)
    episode = gr1_episode(30, cameras=CAMERAS[: model.config.num_views])
    want = plain_actions(model, processor, episode)
    assert np.abs(np.diff(want, axis=0)).max() > 1e-3  # the actions do depend on what is seen
    policy = RobotPolicy(model, processor)
    watch = Watch(policy)
    robot = np.stack([policy.select_action(obs) for obs in episode])
    assert np.abs(np.stack(watch.actions) - want).max() <= 2e-6
    units = processor.post_process_actions(torch.from_numpy(want)).numpy()[:, 0]
    assert robot.shape == units.shape and np.abs(robot - units).max() <= 2e-6
    assert len(watch.frames) == 30 * model.config.num_views and len(watch.texts) == 1


def test_no_frame_and_no_instruction_is_encoded_twice_or_for_nothing():
    policy = RobotPolicy(*tiny_gr1_policy(chunk_size=4, execute=4))
    watch = Watch(policy)
    for obs in gr1_episode(24):
        policy.select_action(obs)
    different = {frame.numpy().tobytes() for frame in watch.frames}
    assert len(different) == len(watch.frames)
    # planned at steps 0, 4, 8, ..., 20 with windows of 5: all 21 frames so far, of two cameras; not the last three
    assert len(watch.frames) == 2 * 21 and len(watch.texts) == 1
    assert "pixel_values" not in watch.batches[-1] and "input_ids" not in watch.batches[-1]
    policy.reset()
    policy.select_action(gr1_episode(1, sentence=1)[0])
    assert len(watch.texts) == 2 and len(watch.frames) == 2 * 22
    assert sum(map(len, policy._memory._frames.values())) == 1


def test_environments_with_histories_of_different_length_share_a_batch():
    model, processor = tiny_gr1_policy()
    episodes = [gr1_episode(12, seed=i, sentence=i) for i in range(3)]
    want = [plain_actions(model, processor, episode) for episode in episodes]
    policy = RobotPolicy(model, processor)
    watch = Watch(policy)
    late = {0: 0, 1: 2, 2: 7}  # each begins at another tick
    for tick in range(12):
        running = [i for i in late if tick >= late[i]]
        policy.select_action([episodes[i][tick - late[i]] for i in running], env_ids=running)
        for i, action in zip(running, watch.actions[-len(running) :]):
            assert np.abs(action - want[i][tick - late[i]]).max() <= 2e-6
    assert len(watch.batches) == 12 and watch.batches[-1]["image_tokens"][:3] == (3, 2, 5)
    # one of them begins again; the others do not notice
    policy.reset(env_ids=1)
    policy.select_action([episodes[1][0], episodes[2][5]], env_ids=[1, 2])
    assert np.abs(watch.actions[-2] - want[1][0]).max() <= 2e-6
    assert np.abs(watch.actions[-1] - want[2][5]).max() <= 2e-6


def test_plans_of_whole_windows_and_the_video():
    model, processor = tiny_gr1_policy()
    episode = gr1_episode(4)
    window = {
        "images": {camera: np.stack([obs["images"][camera] for obs in episode]) for camera in CAMERAS},
        "state": np.stack([obs["state"] for obs in episode]),
        "instruction": episode[0]["instruction"],
    }
    policy = RobotPolicy(model, processor)
    output = policy.predict([window, gr1_episode(1, seed=3)[0]], return_video=True)
    assert output.actions.shape == (2, 1, 7) and np.isin(output.actions[..., 6], (-1, 1)).all()
    assert output.video.shape == (2, 1, 16, 32, 3) and output.video.dtype == np.uint8
    inputs = processor.process_observations([window])
    with torch.no_grad():
        patches = model(**inputs, predict_video=True).frame_patches[:, :, -1]
        frames = processor.post_process_video(model.frames_from_patches(patches, inputs["pixel_values"][:, :, -1]))
    want = torch.cat(frames[0].unbind(0), dim=1).numpy().astype(int)
    assert np.abs(output.video[0, 0].astype(int) - want).max() <= 1
    keyed = {**window, "frame_keys": [("episode", i) for i in range(4)]}
    again = [policy.predict(keyed, return_video=True) for _ in range(2)]  # of new frames, then of known ones
    assert np.array_equal(again[0].video[0], again[1].video[0])
    assert np.abs(again[1].actions[0] - output.actions[0]).max() <= 2e-6


def test_a_camera_that_reuses_its_memory_and_states_that_are_read_at_every_step():
    model, processor = tiny_gr1_policy(chunk_size=2, execute=2)
    episode = gr1_episode(6)
    want = plain_actions(model, processor, episode)
    policy, buffer = RobotPolicy(model, processor), gr1_episode(1)[0]
    watch = Watch(policy)
    for obs in episode:
        for camera in CAMERAS:
            buffer["images"][camera][:] = obs["images"][camera]
        buffer["state"][:] = obs["state"]
        policy.select_action(buffer)
    assert np.abs(np.stack(watch.actions) - want[::2]).max() <= 2e-6
    policy.reset()
    policy.select_action(episode[0])
    with pytest.raises(InputError, match="state: missing"):
        policy.select_action({name: episode[1][name] for name in ("images", "instruction")})


def test_moving_forgets_and_half_precision_works():
    model, processor = tiny_gr1_policy()
    policy = RobotPolicy(model, processor)
    watch = Watch(policy)
    obs = gr1_episode(1)[0]
    policy.select_action(obs)
    policy.to("cpu")
    policy.select_action(obs)
    assert len(watch.texts) == 2
    policy = RobotPolicy(tiny_gr1_policy()[0].to(torch.bfloat16), processor)
    steps = [policy.select_action(obs) for obs in gr1_episode(7)]
    assert np.isfinite(steps).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": 0.5}, "temperature: a gr1 policy draws nothing"),
        ({"num_inference_steps": 4}, "num_inference_steps: a gr1 policy answers in one pass"),
        ({"sampler": "halton"}, "sampler: a gr1 policy"),
        ({"guidance_scale": 2.0}, "guidance_scale: a gr1"),
        ({"real_time": True}, "real_time"),
        ({"execute": 2}, "execute"),
    ],
)
def test_options_of_denoising_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RobotPolicy(*tiny_gr1_policy(), **options)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda obs: obs["images"].pop("rgb_gripper"), "rgb_gripper"),
        (lambda obs: obs.update(state=np.full(7, np.nan)), "state of observation 0: value at index"),
        (lambda obs: obs.update(state=np.zeros(6)), "state of observation 0: expected"),
        (lambda obs: obs.update(instruction=" "), "expected a sentence"),
        (lambda obs: obs["images"].update(rgb_static=np.zeros((20, 30, 3), np.uint8)), "20x30 is not square"),
        (lambda obs: obs["images"].update(rgb_static=np.zeros((20, 20, 3))), "expected dtype uint8"),
    ],
)
def test_bad_observations_are_named(change, message):
    policy, obs = RobotPolicy(*tiny_gr1_policy()), gr1_episode(1)[0]
    change(obs)
    with pytest.raises(InputError, match=message):
        policy.select_action(obs)


def test_windows_that_contradict_themselves_are_named():
    policy, episode = RobotPolicy(*tiny_gr1_policy()), gr1_episode(6)
    obs = {**episode[0], "images": {c: [o["images"][c] for o in episode] for c in CAMERAS}}
    with pytest.raises(InputError, match="6 frames given, expected at most 5"):
        policy.predict(obs)
    obs["images"] = {"rgb_static": obs["images"]["rgb_static"][:2], "rgb_gripper": obs["images"]["rgb_gripper"][:3]}
    with pytest.raises(InputError, match="3 frames given, expected 2"):
        policy.predict(obs)
    with pytest.raises(InputError, match="frame_keys must be one"):
        policy.predict({**episode[0], "frame_keys": [("a", 0), ("a", 1)]})
