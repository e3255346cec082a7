"""`hf-vpdd eval --env rlbench` from the command line to the report: a small multi-view policy and the stand-in."""

import json

import numpy as np
import pytest

from hf_vpdd.cli import main
from hf_vpdd.envs.rlbench_tasks import CAMERAS
from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.episodes import make_episodes
from hf_vpdd.evaluation.policies import Plan
from hf_vpdd.evaluation.rollout import rollout
from hf_vpdd.evaluation.runner import evaluate
from hf_vpdd.evaluation.simulators import Simulators, View
from hf_vpdd.modeling.vpdd import VPDDConfig, VPDDForRobotPolicy
from hf_vpdd.modeling.vpdd.processing_vpdd import VPDDProcessor, train_tokenizer
from hf_vpdd.saving import save_policy
from tests.envs import rlbench_world
from tests.pipelines.tiny_policy import TEXT


@pytest.fixture
def world(monkeypatch, tmp_path):
    folder = tmp_path / "CoppeliaSim"
    folder.mkdir()
    yield rlbench_world.install(monkeypatch, folder)
    rlbench_world.forget()


def multiview_policy():
    """The official RLBench wiring, a thousand times smaller, untrained: (model, processor)."""
    vqvae = {"hidden_size": 8, "num_res_layers": 1, "codebook_size": 12, "codebook_dim": 8, "image_size": 16}
    config = VPDDConfig.rlbench(
        vqvae_config=vqvae,
        text_config=TEXT,
        chunk_size=2,
        hidden_size=16,
        num_latents=8,
        trunk_layers=1,
        trunk_head_dim=8,
        trunk_ff_size=16,
        timestep_ff_size=16,
        history_ff_size=16,
        head_hidden_size=16,
        head_layers=1,
        head_ff_size=16,
        head_image_size=32,
        head_image_channels=8,
        num_train_timesteps=4,
    )
    rng = np.random.default_rng(0)
    quaternion = rng.normal(size=(60, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    position = rng.uniform([0.0, -0.3, 0.7], [0.5, 0.3, 1.4], (60, 3))
    keyframes = np.concatenate([position, quaternion, rng.integers(0, 2, (60, 1))], axis=1)
    processor = VPDDProcessor.from_dataset_stats(
        keyframes,
        rng.normal(size=(60, 4)),
        train_tokenizer(["close the red jar"], 300),
        num_action_bins=360,
        action_layout="pose",
        cameras=CAMERAS,
        image_size=32,
        history_frames=4,
        chunk_size=2,
        max_instruction_length=20,
    )
    return VPDDForRobotPolicy(config).eval(), processor


def test_a_multiview_policy_is_evaluated(world, tmp_path, capsys):
    checkpoint, out = tmp_path / "tiny", tmp_path / "eval"
    save_policy(checkpoint, *multiview_policy())
    words = (
        f"eval --env rlbench --policy {checkpoint} --tasks close_jar,turn_tap --episodes 2 --max-steps 5 --videos 1"
    )
    assert main([*words.split(), "--workers", "1", "--inference-steps", "2", "--out", str(out)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [row.split()[2] for row in table if row.startswith(("close_jar", "turn_tap", "all"))] == ["2", "2", "4"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["protocol"] == "rlbench" and "PerAct" in summary["label"] and summary["by_difficulty"] == {}
    assert summary["view"] == {"cameras": list(CAMERAS), "image_size": 32, "max_steps": 5, "history_frames": 4}
    results = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert len(results) == 4 and all(result["steps"] <= 5 for result in results)
    for result in results:
        assert result["instruction"] is None and result["said"].split()[-1] in ("jar", "lid", "tap")
    assert "tiny in RLBench" in (out / "report.html").read_text()
    assert len(list((out / "videos").glob("*.mp4"))) >= 2 and not (out / "videos" / ".films").exists()
    assert main([*words.split(), "--workers", "1", "--inference-steps", "2", "--resume", "--out", str(out)]) == 0
    assert len((out / "episodes.jsonl").read_text().splitlines()) == 4
    assert world.CALLS == []  # all of it in the worker


class Pointer:
    """Flies to a list of poses, whatever it sees; keeps what it saw."""

    execute = 1

    def __init__(self, poses):
        self.poses, self.observations = np.asarray(poses, np.float32), []

    def predict(self, observations, return_video=False):
        (observation,) = observations
        self.observations.append(observation)
        return Plan(self.poses[None, (len(self.observations) - 1) % len(self.poses)][:, None])


ABOVE = [0.3, 0.1, 1.0, 0, 1, 0, 0, 1]
BEYOND = [0.3, 0.1, 9.0, 0, 1, 0, 0, 1]
VIEW = View("rlbench", cameras=("front", "wrist"), image_size=16, history_frames=2)


def test_a_pose_that_cannot_be_reached_is_a_failed_episode(world, tmp_path):
    policy = Pointer([ABOVE, BEYOND])
    episodes = make_episodes("close_jar", 2, env="rlbench", variations=[2, 0])
    with Simulators(VIEW, workers=0, seats=4) as simulators:
        assert len(simulators.seats) == 1  # one CoppeliaSim, one episode at a time
        results = [result for result, _ in rollout(policy, episodes, simulators)]
    assert [(result["success"], result["steps"], result["variation"]) for result in results] == [
        (False, 2, 2),
        (False, 2, 0),
    ]
    assert all(result["failure"].startswith("InvalidActionError: A path could not be found") for result in results)
    assert "lime" in results[0]["said"] and "red" in results[1]["said"]
    start, second = policy.observations[:2]
    assert start["images"]["wrist"].shape == (1, 16, 16, 3) and second["images"]["wrist"].shape == (2, 16, 16, 3)
    assert second["images"]["wrist"][:, 0, 0, 0].tolist() == [4, 5]  # simulator steps, not keyframes
    assert second["instruction"] == results[0]["said"]
    assert world.CALLS[-1] == ("shutdown",)


def test_success_and_its_film(world):
    """The film's pictures are those of the episode itself: planned motions cannot be run again."""
    episodes = make_episodes("turn_tap", 1, env="rlbench")
    with Simulators(VIEW, workers=0, seats=1) as simulators:
        env = simulators._stage._environment("turn_tap", None, 16)
        env.reset(seed=episodes[0].seed)
        target = [*env._scene._scene.target, 0, 1, 0, 0, 0]
        simulators._stage._put_back(("turn_tap", None, 16), env)
        ((result, film),) = rollout(Pointer([ABOVE, target]), episodes, simulators, film=lambda episode: True)
    assert result["success"] and result["steps"] == 2 and "failure" not in result
    assert film.frames[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8, 10, 10]  # the last one: the gripper has closed
    assert film.plan_steps.tolist() == [0, 5] and film.episode.instruction == result["said"]


def test_the_same_episodes_alone_and_in_workers(world):
    episodes = make_episodes("close_jar,turn_tap", 3, env="rlbench")
    outcomes = []
    for workers in (0, 2):
        with Simulators(VIEW, workers=workers, seats=8) as simulators:
            policy = Looker()
            results = [result for result, _ in rollout(policy, episodes, simulators)]
        outcomes.append(sorted(str({**result, "plan_ms": None}) for result in results))
    assert outcomes[0] == outcomes[1] and len(set(outcomes[0])) == 6


class Looker:
    """Flies where the picture's blue (the target) says; its time is not measured."""

    execute = 2

    def predict(self, observations, return_video=False):
        chunks = []
        for observation in observations:
            blue = observation["images"]["front"][-1, 0, 0, 2] / 255
            chunks.append([[blue, 0.1, 1.0, 0, 1, 0, 0, 0]] * 2 if blue < 0.3 else [BEYOND] * 2)
        return Plan(np.array(chunks, np.float32))


def test_results_are_resumed_with_their_variations(world, tmp_path):
    episodes = make_episodes("close_jar", 3, env="rlbench", variations=[0, 1])
    assert [episode.variation for episode in episodes] == [0, 1, 0]
    policy = Pointer([BEYOND])
    for resume in (False, True):
        evaluation = evaluate(
            policy, episodes, tmp_path / "eval", protocol="rlbench", workers=0, progress=False, resume=resume
        )
    assert len(policy.observations) == 3 and len(evaluation.results) == 3
    assert evaluation.mean == 0 and evaluation.summary["overall"]["episodes"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--env rlbench --policy expert", "no policy 'expert'"),
        ("--env rlbench --policy x --protocol lean", "belongs to --env metaworld"),
        ("--env rlbench --policy x --perturb light", "no perturbation"),
        ("--env rlbench --policy x --perturb paraphrase", "no perturbation"),
        ("--env rlbench --policy x --variations 1,two", "whole numbers"),
        ("--env rlbench --policy x --variations -1", "whole numbers"),
        ("--policy expert --variations 1", "of a task of RLBench"),
        ("--protocol rlbench --policy x --tasks Jar", "names look like"),
    ],
)
def test_wrong_words(words, message, tmp_path, capsys):
    assert main(["eval", *words.split(), "--out", str(tmp_path / "eval")]) == 2
    assert message in capsys.readouterr().err


def test_default_lists():
    assert len(make_episodes("vpdd17", 25, env="rlbench")) == 17 * 25
    with pytest.raises(InputError, match="no simulator 'mujoco'"):
        make_episodes("vpdd17", 1, env="mujoco")
