"""Phases 2 and 3 of V-PTR on a small recording: labels, phases, arms, resumption, errors."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_vpdd import RobotPolicy, VPTRForRobotPolicy, VPTRForValuePrediction
from hf_vpdd.data import FrameStore
from hf_vpdd.errors import InputError
from hf_vpdd.training import load_recipe, loop, run_offline_rl, run_value_pretrain
from hf_vpdd.training.phases import PhasedSampler
from hf_vpdd.training.stages.demonstrations import Transitions, action_labels
from hf_vpdd.training.stages.offline_rl import OfflineRLTask

from .small_data import SIZE, TASKS, write_dataset
from .vptr_data import TEXT, vptr_experiment


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    root = tmp_path_factory.mktemp("offline")
    data = write_dataset(root / "data")
    store = FrameStore.build(data, camera="corner2", image_size=SIZE, progress=False)
    config = vptr_experiment(data, root / "out")
    quick = {"steps": 2, "save_every": 0, "eval_every": 0}
    for objective in ("icvf", "vip"):
        recipe = load_recipe("value_pretrain", config, quick, objective=objective, output_dir=str(root / objective))
        run_value_pretrain(recipe, store)
    config["offline_rl"]["init"] = f"vptr:{root / 'icvf'}"
    return {"config": config, "store": store, "root": root, "data": data}


def recipe_of(road, name, **overrides):
    return load_recipe("offline_rl", road["config"], overrides, output_dir=str(road["root"] / name))


def run(road, name, store=None, **overrides):
    return run_offline_rl(recipe_of(road, name, **overrides), store or road["store"])


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def policy(road):
    return run(road, "policy", target_tasks=[TASKS[1]], prior_steps=3)


def test_the_official_settings_are_the_defaults():
    recipe = load_recipe("offline_rl", {"output_dir": "o", "data": {"root": ["d"]}})
    options = recipe.options
    assert (recipe.train.learning_rate, recipe.train.batch_size, recipe.train.eps) == (3e-4, 64, 1e-8)
    assert recipe.train.learning_rate * options.actor_lr_multiplier == pytest.approx(1e-4)
    assert (options.alpha, options.discount, options.target_rate, options.mixing) == (5, 0.96, 0.005, 0.9)
    assert (options.success_reward, options.step_reward, options.final_steps, options.action_limit) == (
        10,
        -1,
        3,
        0.99,
    )
    assert (options.crop_padding, options.jitter_probability, options.jitter) == (4, 0.8, [0.2, 0.1, 0.1, 0.03])


def test_phases_of_the_mixture():
    sampler = PhasedSampler(100, 20, 64, prior_steps=5, mixing=0.9, seed=0)
    assert all((sampler.batch(step) < 100).all() and len(sampler.batch(step)) == 64 for step in range(5))
    for step in (5, 6, 40):
        batch = sampler.batch(step)
        assert (batch < 100).sum() == 57 and ((batch >= 100) & (batch < 120)).sum() == 7
    target = np.concatenate([sampler.batch(step)[57:] for step in range(20, 40)])
    assert np.ptp(np.bincount(target - 100)) <= 2  # every target sample as often as every other
    assert np.array_equal(sampler.batch(6), PhasedSampler(100, 20, 64, 5, 0.9, 0).batch(6))
    assert (PhasedSampler(0, 20, 8, 0, 0.0, 0).batch(3) < 20).all()  # no prior data at all
    assert len(PhasedSampler(100, 0, 64, 9, 0.9, 0).batch(20)) == 64
    ranks = [PhasedSampler(100, 20, 32, 5, 0.9, 0, rank, 2).batch(9) for rank in range(2)]
    assert all((batch >= 100).sum() == 4 for batch in ranks)  # the floor is per process


def test_transitions_are_labelled_as_demonstrations(road):
    task = OfflineRLTask(recipe_of(road, "labels"), road["store"])
    transitions, store = task.transitions, road["store"]
    rows = np.array([0, 14, 15, 17])  # of an episode of 18 frames
    batch = transitions.batch(rows)
    assert batch["rewards"].tolist() == [-1, -1, 10, 10] and batch["masks"].tolist() == [1, 1, 0, 0]
    assert batch["returns"].tolist()[1:] == pytest.approx([8.6, 10, 10])
    following = [1, 15, 16, 17]
    assert np.array_equal(batch["frames"][1].numpy(), store.frames[np.array(following)])
    assert torch.equal(batch["next_state"][:2], transitions.batch(np.array([1, 15]))["state"])
    scaled = task.processor.normalize_actions(torch.from_numpy(store.action[rows]))
    assert torch.equal(batch["actions"], scaled) and scaled.abs().max() <= 0.99
    assert batch["task_ids"].tolist() == [0] * 4 and transitions.batch(np.array([18]))["task_ids"].tolist() == [1]
    moved = action_labels(store, "state_difference")
    assert np.allclose(moved[3, :3], store.state[4, :3] - store.state[3, :3]) and moved[3, 3] == store.action[3, 3]
    assert not moved[17, :3].any() and (np.abs(moved) < 5).all()


def test_rewards_that_contradict_the_mask_are_refused(road):
    task, store = OfflineRLTask(recipe_of(road, "labels"), road["store"]), road["store"]
    rewards, masks = np.full(store.num_frames, -1, np.float32), np.ones(store.num_frames, np.float32)
    rewards[5] = 10
    with pytest.raises(InputError, match="step 5: reward 10 contradicts mask 1"):
        Transitions(
            store, task.options, task.processor, np.zeros(store.num_frames, np.int64), None, False, rewards, masks
        )


def test_encoders_start_from_the_value_model_and_learn_apart(road, policy):
    source = VPTRForValuePrediction.from_pretrained(road["root"] / "icvf").model.encoder.state_dict()
    start = OfflineRLTask(recipe_of(road, "start"), road["store"]).policy
    end = VPTRForRobotPolicy.from_pretrained(policy)
    for name, tensor in source.items():
        assert torch.equal(start.actor_encoder.state_dict()[name], tensor)
        assert torch.equal(start.critic_encoder.state_dict()[name], tensor)
    assert any(not torch.equal(end.critic_encoder.state_dict()[n], t) for n, t in source.items())
    assert any(not torch.equal(end.critic_encoder.state_dict()[n], end.actor_encoder.state_dict()[n]) for n in source)
    assert not any("slow" in name for name in end.state_dict())
    last = metrics(policy)[-1]
    for name in ("nll", "action_error", "q_demonstrated", "q_policy", "q_random"):
        assert np.isfinite(last[f"val/{name}"])
    logged = metrics(policy)[0]
    for name in ("td_loss", "cql_loss", "actor_loss", "entropy", "temperature", "q_data"):
        assert np.isfinite(logged[f"train/{name}"])


def test_the_folder_is_a_policy(road, policy):
    controller = RobotPolicy.from_pretrained(policy, device="cpu")
    obs = {
        "images": {"corner2": road["store"].frames[0].copy()},
        "state": road["store"].state[0],
        "instruction": TASKS[1],
    }
    action = controller.select_action(obs)
    assert action.shape == (4,) and np.isfinite(action).all()
    assert controller.processor.tasks == list(TASKS) and controller.model.config.tasks == list(TASKS)
    with pytest.raises(InputError, match="not in the policy's table"):
        controller.predict({**obs, "instruction": "make coffee"})


def test_resuming_over_the_boundary_repeats_an_uninterrupted_run(road, policy):
    settings = {"target_tasks": [TASKS[1]], "prior_steps": 3}
    folder = road["root"] / "resumed"
    run(road, "resumed", steps=3, **settings)
    run(road, "resumed", steps=6, **settings)
    first, second = (load_file(f / "model.safetensors") for f in (policy, folder))
    assert all(torch.equal(first[k], second[k]) for k in first)
    states = [torch.load(f / "checkpoint-000006" / "state.pt", weights_only=True)["task"] for f in (policy, folder)]
    assert all(torch.equal(states[0]["slow"][k], states[1]["slow"][k]) for k in states[0]["slow"])
    moments = [s["optimizers"]["critic"]["state"][0]["exp_avg"] for s in states]
    assert torch.equal(*moments)
    with pytest.raises(InputError, match="different run"):
        run(road, "resumed", steps=6, target_tasks=[TASKS[1]], prior_steps=2)


QUICK = {"steps": 2, "save_every": 0, "eval_every": 0}


def encoders(folder, part="critic_encoder"):
    weights = load_file(folder / "model.safetensors")
    return {k: v for k, v in weights.items() if k.startswith(part)}


def test_arms_of_the_comparison(road):
    vip = run(road, "vip-arm", init=f"vip:{road['root'] / 'vip'}", freeze_encoders=True, **QUICK)
    source = VPTRForValuePrediction.from_pretrained(road["root"] / "vip").model.encoder.state_dict()
    assert all(torch.equal(source[k.split(".", 1)[1]], v) for k, v in encoders(vip).items())
    assert all(torch.equal(source[k.split(".", 1)[1]], v) for k, v in encoders(vip, "actor_encoder").items())
    assert VPTRForRobotPolicy.from_pretrained(vip).config.value_objective == "vip"
    scratch = run(road, "scratch", init="scratch", skip_multitask=True, target_tasks=[TASKS[0]], **QUICK)
    assert VPTRForRobotPolicy.from_pretrained(scratch).config.tasks == [TASKS[0]]
    cloned = run(road, "bc", objective="bc", **QUICK)
    before = OfflineRLTask(recipe_of(road, "bc2"), road["store"]).policy.state_dict()
    after = load_file(cloned / "model.safetensors")
    changed = {k.split(".")[0] for k in after if not torch.equal(before[k], after[k])}
    assert changed == {"actor_encoder", "actor_bottleneck", "actor"}
    assert "val/nll" in metrics(cloned)[-1] and "val/q_policy" not in metrics(cloned)[-1]


@pytest.mark.parametrize("condition", ["text", "goal_image", "none"])
def test_ways_to_tell_the_task(road, condition):
    text = {"model.text_config": TEXT} if condition == "text" else {}
    folder = run(road, condition, **QUICK, **{"model.condition": condition, **text})
    controller = RobotPolicy.from_pretrained(folder, device="cpu")
    frame = road["store"].frames[0].copy()
    obs = {"images": frame, "state": road["store"].state[0], "instruction": TASKS[0], "goal": frame}
    assert controller.predict(obs).actions.shape == (1, 1, 4)
    if condition == "goal_image":
        with pytest.raises(InputError, match="'goal' is missing"):
            controller.predict({k: v for k, v in obs.items() if k != "goal"})


def test_target_demonstrations_of_a_dataset_of_their_own(road):
    other = write_dataset(road["root"] / "target", episodes_per_task=3)
    recipe = recipe_of(
        road, "other", target_root=str(other), target_tasks=[TASKS[1]], target_episodes=1, prior_steps=1, **QUICK
    )
    from hf_vpdd.training.stages.demonstrations import open_demonstrations, split_episodes

    store = open_demonstrations(recipe)
    split = split_episodes(recipe, store)
    assert sorted(split.prior) == list(range(6)) and [store.episode_task[e] for e in split.target] == [TASKS[1]]
    assert store.roots[split.target[0]] == str(other)
    assert run_offline_rl(recipe, store).is_dir()


def test_diverging_values_end_the_run(road):
    with pytest.raises(InputError, match="values diverge: the mean Q"):
        run(road, "diverges", learning_rate=3.0, steps=60, save_every=0, eval_every=0, log_every=1)


@pytest.mark.parametrize("objective", ["cql", "bc"])
def test_lora_adapts_the_encoders_and_resumes(road, objective, monkeypatch):
    settings = {"lora": True, "lora_r": 2, "objective": objective, "steps": 4, "save_every": 2, "eval_every": 0}
    folder = run(road, f"lora-{objective}", **settings)
    monkeypatch.setattr(loop._Run, "_stop_requested", lambda self: self.step == 2)  # as SIGTERM in step 2 does
    with pytest.raises(loop.Terminated):
        run(road, f"lora-{objective}-cut", **settings)
    monkeypatch.undo()
    again = run(road, f"lora-{objective}-cut", **settings)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        first, second = (load_file(f / name) for f in (folder, again))
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert {k.split(".")[2] for k in adapter if ".lora_" in k} == {"actor_encoder", "critic_encoder"}
    assert {k.split(".")[2] for k in adapter if ".lora_" not in k} >= {"actor", "critics", "actor_bottleneck"}
    moved = {k for k, v in adapter.items() if "lora_B" in k and v.abs().max() > 0}
    assert any("actor_encoder" in k for k in moved)
    assert any("critic_encoder" in k for k in moved) == (objective == "cql")  # cloning teaches no critic
    state = torch.load(folder / "checkpoint-000004" / "state.pt", weights_only=True)["model"]
    assert not any(k.endswith("base_layer.weight") for k in state)
    frames = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    observation = {"images": frames, "state": np.zeros(4, np.float32), "instruction": TASKS[0]}
    both = [RobotPolicy.from_pretrained(f, device="cpu") for f in (folder, folder / "adapter")]
    np.testing.assert_allclose(*(policy.predict(observation).actions for policy in both), atol=1e-5)


@pytest.mark.parametrize(
    "overrides, says",
    [
        ({"lora": True, "init": "scratch"}, "with init scratch they are random"),
        ({"lora": True, "freeze_encoders": True}, "freeze_encoders says they stay as they are"),
        ({"lora_r": 4}, "offline_rl.lora_r has no effect without adapters"),
        ({"init": "mae"}, "init must be one of"),
        ({"init": "vip"}, "no model"),
        ({"init": "scratch", "freeze_encoders": True}, "freeze random encoders"),
        ({"skip_multitask": True}, "name target_tasks or target_root"),
        ({"prior_steps": 3}, "need a target"),
        ({"target_tasks": ["make coffee"]}, "not in the dataset"),
        ({"target_tasks": list(TASKS)}, "no prior data is left"),
        ({"target_tasks": [TASKS[0]], "mixing": 1.0}, "never be seen"),
        ({"model.impala_widths": [4, 16]}, "does not fit this"),
        ({"model.action_dim": 7}, "model.action_dim is 7, the dataset has 4"),
        ({"weight_decay": 0.1}, "plain Adam"),
        ({"action_low": [0, 1]}, "1 or 4 numbers"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps must be 1"),
    ],
)
def test_what_is_refused(road, overrides, says):
    with pytest.raises(InputError, match=says):
        run(road, "refused", **QUICK, **overrides)


def test_data_that_do_not_fit(road, policy):
    with pytest.raises(InputError, match="needs demonstrations with actions"):
        run(road, "refused", store=replace(road["store"], action=None))
    with pytest.raises(InputError, match="was trained by vip, vptr means icvf"):
        run(road, "refused", init=f"vptr:{road['root'] / 'vip'}")
    with pytest.raises(InputError, match="not a value model"):
        run(road, "refused", init=f"vptr:{policy}")
