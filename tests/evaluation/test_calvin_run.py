import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hf_vpdd.commands import _eval_calvin
from hf_vpdd.envs.calvin import CalvinServerError
from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.calvin_chains import official_chains, starting_scene
from hf_vpdd.evaluation.calvin_policy import Needs, Pilot, load_calvin_policy
from hf_vpdd.evaluation.calvin_report import calvin_report, calvin_summary_text
from hf_vpdd.evaluation.calvin_results import ChainFolder, chain_scores, official_results, task_scores
from hf_vpdd.evaluation.calvin_run import CalvinSettings, evaluate_calvin
from hf_vpdd.evaluation.metrics import mean_interval
from tests.evaluation.calvin_toy import Seer, ToyCalvin


def evaluate(out, policy=None, die_in=(), resume=False, merge=(), checkpoint=None, **settings):
    settings = {"chains": 8, "workers": 2, "max_steps": 12, "videos": 0, **settings}
    return evaluate_calvin(
        policy or Seer(),
        out,
        CalvinSettings(**settings),
        resume=resume,
        merge=merge,
        progress=False,
        make_env=lambda cameras: ToyCalvin(cameras, die_in),
    )


def essence(evaluation):
    """Results without the wall time."""
    return [{name: value for name, value in one.items() if name != "plan_ms"} for one in evaluation.results]


def test_results_are_the_same_for_any_number_of_workers_and_shards(tmp_path):
    one = evaluate(tmp_path / "one", workers=1)
    assert len({result["done"] for result in one.results}) > 2  # chains end at different places
    assert len({result["digest"] for result in one.results}) == 8
    assert essence(evaluate(tmp_path / "three", workers=3)) == essence(one)
    assert essence(evaluate(tmp_path / "batches", workers=4, batch=4)) == essence(one)  # the toy does not round
    assert essence(evaluate(tmp_path / "window", policy=Seer(history_frames=3), workers=3)) == essence(
        evaluate(tmp_path / "window1", policy=Seer(history_frames=3), workers=1)
    )
    other = evaluate(tmp_path / "seed", policy_seed=1)
    assert essence(other) != essence(one)
    # into one folder, one shard after the other
    first = evaluate(tmp_path / "shards", shard=1, shards=3)
    assert not first.summary["finished"] and first.summary["chains"] == 3
    evaluate(tmp_path / "shards", shard=3, shards=3)
    last = evaluate(tmp_path / "shards", shard=2, shards=3)
    assert last.summary["finished"] and essence(last) == essence(one)
    # into folders of their own, merged afterwards: nothing is left to run
    evaluate(tmp_path / "a", shard=1, shards=2)
    evaluate(tmp_path / "b", shard=2, shards=2)
    policy = Seer(stop_at=0)
    merged = evaluate(tmp_path / "c", policy=policy, merge=[tmp_path / "a", tmp_path / "b"])
    assert essence(merged) == essence(one) and not policy.seen
    keep = ("average_length", "success_in_a_row", "tasks", "chains", "finished")
    assert {name: merged.summary[name] for name in keep} == {name: one.summary[name] for name in keep}


def test_an_interrupted_run_goes_on(tmp_path):
    whole = evaluate(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "cut", policy=Seer(stop_at=70), workers=1)
    there = (tmp_path / "cut" / "chains.jsonl").read_bytes()
    count = there.count(b"\n")
    assert 0 < count < 8 and json.loads((tmp_path / "cut" / "summary.json").read_text())["finished"] is False
    (tmp_path / "cut" / "chains.jsonl").write_bytes(there + b'{"chain": 7, "ta')  # a kill in the middle of a line
    with pytest.raises(InputError, match="--resume"):
        evaluate(tmp_path / "cut")
    with pytest.raises(InputError, match="max_steps was '12', now '11'"):
        evaluate(tmp_path / "cut", resume=True, max_steps=11)
    with pytest.raises(InputError, match="protocol was 'calvin', now 'calvin-official-quirks'"):
        evaluate(tmp_path / "cut", resume=True, official_quirks=True)
    resumed = evaluate(tmp_path / "cut", resume=True)
    assert essence(resumed) == essence(whole)
    assert (tmp_path / "cut" / "chains.jsonl").read_bytes().startswith(there)
    assert essence(evaluate(tmp_path / "cut", policy=Seer(stop_at=0), resume=True)) == essence(whole)


def test_kill_minus_nine_loses_only_the_chains_it_was_in(tmp_path):
    script = (
        "import os, signal\n"
        "from tests.evaluation.test_calvin_run import *\n"
        "append = ChainFolder.append\n"
        "def third(self, result):\n"
        "    append(self, result)\n"
        "    if len(self.results) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "ChainFolder.append = third\n"
        f"evaluate({str(tmp_path / 'killed')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env={**os.environ}, timeout=120)
    assert done.returncode == -9, done.stderr
    assert (tmp_path / "killed" / "chains.jsonl").read_text().count("\n") == 3
    resumed = evaluate(tmp_path / "killed", resume=True)
    assert essence(resumed) == essence(evaluate(tmp_path / "whole"))


def test_a_simulator_that_dies_once_is_replaced_and_the_chain_begins_again(tmp_path, capsys):
    whole = evaluate(tmp_path / "whole")
    assert essence(evaluate(tmp_path / "died", die_in=[2], workers=1)) == essence(whole)
    assert "chain 2 begins again" in capsys.readouterr().err
    with pytest.raises(CalvinServerError):
        evaluate(tmp_path / "dead", die_in=[2, 2], workers=1)
    assert (tmp_path / "dead" / "chains.jsonl").read_text().count("\n") == 2
    assert essence(evaluate(tmp_path / "dead", resume=True)) == essence(whole)


def test_chains_end_at_the_first_failure_and_every_subtask_begins_anew(tmp_path):
    policy = Seer(history_frames=3)
    evaluation = evaluate(tmp_path, policy=policy, workers=1, chains=6)
    for result, chain in zip(evaluation.results, official_chains()):
        tried = result["subtasks"]
        assert [one["task"] for one in tried] == list(chain.tasks[: len(tried)])
        assert [one["success"] for one in tried[:-1]] == [True] * (len(tried) - 1)
        assert result["done"] == sum(one["success"] for one in tried)
        assert tried[-1]["success"] or tried[-1]["steps"] == 12
        assert result["steps"] == sum(one["steps"] for one in tried)
    starts = [obs for obs in policy.seen if len(obs["frame_keys"]) == 1]
    subtasks = sum(len(result["subtasks"]) for result in evaluation.results)
    assert len(starts) == subtasks == len(policy.forgotten) == len(set(policy.forgotten))
    assert all(obs["state"].shape == (len(obs["frame_keys"]), 7) for obs in policy.seen)
    assert max(len(obs["frame_keys"]) for obs in policy.seen) == 3


def test_the_policy_sees_calvins_cameras_and_its_part_of_the_state():
    needs = Needs.of(Seer(chunk=2, cameras=("rgb_gripper",), state_dim=7))
    asked = []

    def ask(request):
        asked.append(request)
        return np.zeros((2, 7), np.float32)

    pilot = Pilot(needs, ("calvin", 0, 0), ask)
    state = np.arange(15, dtype=np.float32)
    picture = np.zeros((14, 14, 3), np.uint8)
    full = {"images": {"gripper": picture, "static": picture + 1}, "state": state, "instruction": "go"}
    pilot.act(full)
    assert asked[0].observation["state"].tolist() == [0, 1, 2, 3, 4, 5, 14]
    assert asked[0].observation["images"]["rgb_gripper"] is picture and len(asked[0].observation["images"]) == 1
    assert not pilot.looks()  # the next action is planned already
    pilot.act({**full, "images": {}})
    assert pilot.looks() and len(asked) == 1
    assert Needs.of(Seer(state_dim=15)).state == tuple(range(15))
    with pytest.raises(InputError, match="camera 'corner2'"):
        Needs.of(Seer(cameras=("corner2",)))
    with pytest.raises(InputError, match="states of 4 numbers"):
        Needs.of(Seer(state_dim=4))
    other = Seer()
    other.processor.action_dim = 4
    with pytest.raises(InputError, match="acts with 4 numbers"):
        Needs.of(other)
    with pytest.raises(InputError, match="execute=3"):
        Needs.of(Seer(chunk=2), execute=3)


@pytest.mark.parametrize("options", [{"execute": 1}, {"chunk_size": 4, "execute": 3, "history_stride": 2}])
def test_a_gr1_acts_as_robot_policy_lets_it(tmp_path, options):
    from hf_vpdd import RobotPolicy
    from tests.pipelines.tiny_gr1 import tiny_gr1_policy

    model, processor = tiny_gr1_policy(**options)
    settings = {"chains": 2, "max_steps": 9, "workers": 2}
    evaluation = evaluate(tmp_path / "run", policy=RobotPolicy(model, processor), **settings)
    assert essence(evaluation) == essence(
        evaluate(tmp_path / "again", policy=RobotPolicy(model, processor), **{**settings, "workers": 1})
    )
    assert (evaluation.summary["ms_per_action"] or 0) > 0
    policy, env = RobotPolicy(model, processor), ToyCalvin()
    for chain, result in zip(official_chains(), evaluation.results):
        robot_obs, scene_obs = starting_scene(chain.start)
        env.reset(seed=chain.number, options={"robot_obs": robot_obs, "scene_obs": scene_obs})
        digest = hashlib.blake2b(digest_size=16)
        for task in chain.tasks[: len(result["subtasks"])]:
            obs, success = env.begin_subtask(task, env.sentences()[task]), False
            policy.reset()
            for _ in range(9):
                if not success:
                    images = {f"rgb_{name}": image for name, image in obs["images"].items()}
                    state = obs["state"][[0, 1, 2, 3, 4, 5, 14]]
                    action = policy.select_action({**obs, "images": images, "state": state})
                    obs, _, success, _, info = env.step(action)
                    digest.update(action.tobytes() + info["robot_obs"].tobytes() + info["scene_obs"].tobytes())
        assert digest.hexdigest() == result["digest"]


def test_a_vpdd_that_draws_its_actions_acts_alike_for_any_number_of_workers(tmp_path):
    from hf_vpdd import RobotPolicy
    from tests.pipelines import tiny_policy as tiny

    draw = np.random.default_rng(0)
    processor = tiny.VPDDProcessor.from_dataset_stats(
        draw.uniform(-1, 1, (200, 7)).astype(np.float32), draw.normal(size=(200, 7)).astype(np.float32),
        tiny.train_tokenizer(tiny.SENTENCES, 300), num_action_bins=7, image_size=16, chunk_size=3,
        max_instruction_length=20, cameras=("rgb_static", "rgb_gripper"),
    )  # fmt: skip
    config = tiny.small_config(text_config=tiny.TEXT, num_views=2, action_dim=7, state_dim=7)
    model = tiny.VPDDForRobotPolicy(config).eval()
    one, two, other = (
        evaluate(tmp_path / name, policy=RobotPolicy(model, processor), chains=2, max_steps=6, **settings)
        for name, settings in (("1", {"workers": 1}), ("2", {"workers": 2}), ("seed", {"policy_seed": 1}))
    )
    assert essence(one) == essence(two) != essence(other)


def test_null_holds_still_with_an_open_gripper_and_asks_for_no_picture(tmp_path):
    policy = load_calvin_policy("null")
    actions = policy.predict([None]).actions
    assert actions.shape == (1, 8, 7) and not actions[..., :6].any() and (actions[..., 6] == 1).all()
    toy = ToyCalvin()
    settings = CalvinSettings(chains=2, workers=1, max_steps=9, videos=0)
    evaluation = evaluate_calvin(policy, tmp_path, settings, progress=False, make_env=lambda cameras: toy)
    assert [result["done"] for result in evaluation.results] == [0, 0] and toy.closed
    assert toy.looked == 4  # at two resets and two beginnings
    assert "95 %, Wilson: all 2 chains ended alike" in calvin_summary_text(evaluation)
    with pytest.raises(InputError, match="no policy 'expert'"):
        load_calvin_policy("expert")


def test_failures_are_filmed_and_shown(tmp_path):
    from hf_vpdd.data.video import open_video

    evaluation = evaluate(tmp_path, videos=1, workers=1, chains=6)
    failed = [result for result in evaluation.results if result["done"] < 5]
    names = [path.name for path in evaluation.videos]
    assert f"chain-{failed[0]['chain']:04d}-{failed[0]['done']}-of-5.mp4" == names[0]
    assert len(names) == 1 + any(result["done"] == 5 for result in evaluation.results)
    with open_video(evaluation.videos[0]) as video:
        assert video.streams.video[0].height % 2 == 0
    page = calvin_report(evaluation, "toy in CALVIN").save(tmp_path / "report.html").read_text()
    assert page.count("<video") == len(names) and "tasks in a row" in page
    text = calvin_summary_text(evaluation)
    assert "6 of the benchmark's 1000 chains" in text and "average length" in text


def results_of(done):
    chains = official_chains()
    return [
        {
            "chain": chain.number, "tasks": list(chain.tasks), "done": n, "steps": 10,
            "subtasks": [{"task": task, "success": i < n, "steps": 10} for i, task in enumerate(chain.tasks[: n + 1])],
        }
        for chain, n in zip(chains, done)
    ]  # fmt: skip


def test_scores_and_the_benchmarks_own_file():
    results = results_of([0, 1, 5, 5, 2, 0, 3, 0])
    scores = chain_scores(results)
    assert [one["successes"] for one in scores["success_in_a_row"]] == [5, 4, 3, 2, 2]
    mean = scores["average_length"]
    assert mean["mean"] == 2.0 == sum(one["rate"] for one in scores["success_in_a_row"])
    assert 0.4 < mean["low"] < 1.2 < 2.8 < mean["high"] < 3.6
    official = official_results(results)["0"]
    assert official["avg_seq_len"] == 2.0 and official["chain_sr"]["1"] == 0.625
    tried = {one["task"]: one["tried"] for one in task_scores(results)}
    assert sum(tried.values()) == sum(len(result["subtasks"]) for result in results)
    assert official["task_info"].keys() == tried.keys()
    # the bootstrap is about mean ± 1.96 s / sqrt(n) where there are many chains
    done = np.random.default_rng(0).integers(0, 6, 1000)
    low, high = mean_interval(done)
    half = 1.96 * done.std() / np.sqrt(1000)
    assert abs(low - done.mean() + half) < 0.01 and abs(high - done.mean() - half) < 0.01
    low, high = mean_interval(np.zeros(10, int))  # nothing to resample, and yet something is not known
    assert low == 0 and 1 < high < 2
    assert mean_interval(np.full(10, 5))[1] == 5 and mean_interval(np.zeros(0, int)) == (0, 5)


def test_folders_that_do_not_belong_are_refused(tmp_path):
    evaluate(tmp_path / "mine", chains=2)
    (tmp_path / "other" / "run.json").parent.mkdir()
    with pytest.raises(InputError, match="there is no run.json"):
        evaluate(tmp_path / "new", merge=[tmp_path / "other"])
    evaluate(tmp_path / "third", chains=2, policy_seed=5)
    with pytest.raises(InputError, match="policy_seed was '5', now '0'"):
        evaluate(tmp_path / "new2", merge=[tmp_path / "third"])
    with open(tmp_path / "mine" / "chains.jsonl", "a") as file:
        file.write('{"chain": 2000, "done": 1, "tasks": [], "subtasks": []}\n')
    with pytest.raises(InputError, match="chains.jsonl line 3"):
        ChainFolder(tmp_path / "mine", json.loads((tmp_path / "mine" / "run.json").read_text()), resume=True)
    with pytest.raises(InputError, match="workers must be at least 1"):
        evaluate(tmp_path / "none", workers=0)
    # begun with other settings, but nothing is lost with it: the message says how to have the folder
    ChainFolder(tmp_path / "begun", {"max_steps": 360})
    with pytest.raises(
        InputError, match="max_steps was '360', now '12'.*No chain is finished there.*delete .*run.json"
    ):
        ChainFolder(tmp_path / "begun", {"max_steps": 12})


def test_without_the_simulator_no_folder_is_begun(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_VPDD_CALVIN_PYTHON", raising=False)
    with pytest.raises(InputError, match="HF_VPDD_CALVIN_PYTHON"):
        evaluate_calvin(Seer(), tmp_path / "out", CalvinSettings(chains=1), progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--env", "calvin", "--tasks", "mt10"], "--tasks means nothing to --env calvin"),
        (["--env", "calvin", "--shard", "5/4"], "--shard 5/4"),
        (["--env", "calvin", "--shard", "x"], "--shard x"),
        (["--env", "calvin", "--perturb", "camera"], "--perturb camera"),
        (["--env", "calvin", "--chains", "1001"], r"1\.\.1000"),
        (["--env", "calvin", "--dataset", "nowhere"], "merged_config.yaml"),
        (["--chains", "3"], "--chains belongs to --env calvin"),
        (["--official-quirks"], "--official-quirks belongs to --env calvin"),
    ],
)
def test_wrong_words_on_the_command_line(tmp_path, words, problem, capsys):
    from hf_vpdd.cli import main

    assert main(["eval", "--policy", "null", "--out", str(tmp_path / "out"), *words]) == 2
    assert __import__("re").search(problem, capsys.readouterr().err)
    assert _eval_calvin._shard(None) == (1, 1) and _eval_calvin._shard("2/8") == (2, 8)
