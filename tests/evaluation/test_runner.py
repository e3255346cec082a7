import json

import pytest

from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.episodes import make_episodes
from hf_vpdd.evaluation.runner import _Choice, evaluate, ms_per_action
from hf_vpdd.evaluation.tables import evaluation_report, summary_text

from .policies import Dreamer, Watcher


def run(policy, out, episodes=3, **options):
    options = {"workers": 0, "max_steps": 8, "progress": False, **options}
    return evaluate(policy, make_episodes("drawer-close", episodes), out, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(Dreamer(), tmp_path_factory.mktemp("out") / "eval", videos=1, name="dreamer")


def test_the_folder_tells_everything(finished):
    summary = json.loads((finished.path / "summary.json").read_text())
    assert summary == json.loads(json.dumps(finished.summary))
    assert (summary["finished"], summary["episodes"], summary["seeds"]) == (True, 3, [100000, 100002])
    assert "lean renderer" in summary["label"] and summary["policy"]["name"] == "dreamer"
    assert summary["by_difficulty"] == {"easy": 0.0}
    assert summary["predict_ahead"] == 8 and summary["execute"] == 4
    assert summary["tasks"][0]["low"] == 0 and 0.5 < summary["tasks"][0]["high"] < 0.6  # 0 of 3
    assert summary["provenance"]["versions"]["mujoco"]
    lines = [json.loads(line) for line in (finished.path / "episodes.jsonl").read_text().splitlines()]
    assert {(line["seed"], line["steps"], line["plans"], line["success"]) for line in lines} == {
        (100000 + i, 8, 2, False) for i in range(3)
    }
    assert summary["ms_per_action"] == pytest.approx(sum(line["plan_ms"] for line in lines) / 24)


def test_one_failure_is_filmed_and_nothing_is_left_over(finished):
    assert [video.path.name for video in finished.videos] == ["drawer-close-v3_100000_failure.mp4"]
    assert [path.name for path in finished.path.joinpath("videos").iterdir()] == ["drawer-close-v3_100000_failure.mp4"]


def test_the_report_and_the_table_hold_the_numbers(finished):
    text = summary_text(finished)
    assert "drawer-close-v3" in text and "0 % [  0,  56]" in text and "lean renderer" in text
    page = evaluation_report(finished, "title").html()
    assert "drawer-close-v3, seed 100000" in page and page.count("<video") == 1 and "lean renderer" in page


def test_resuming_runs_only_what_is_missing(finished, tmp_path):
    out = tmp_path / "eval"
    run(Watcher(), out, episodes=2)
    policy = Watcher()
    again = run(policy, out, episodes=3, resume=True)
    assert sum(policy.batches) == 2  # two plans: the third episode
    assert [result["seed"] for result in again.results] == [100000, 100001, 100002]
    assert again.results[2]["reward"] == finished.results[2]["reward"]  # as if run in one go
    with pytest.raises(InputError, match="execute was '4', now '2'"):
        run(Watcher(), out, resume=True, execute=2)


def test_after_ctrl_c_the_finished_episodes_count(tmp_path):
    out = tmp_path / "eval"
    with pytest.raises(KeyboardInterrupt):
        run(Dreamer(fail_at=3), out, videos=1)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["finished"], summary["episodes"]) == (False, 1)
    policy = Dreamer()
    again = run(policy, out, videos=1, resume=True)
    assert sum(policy.batches) == 4 and again.summary["finished"]
    assert [video.path.name for video in again.videos] == ["drawer-close-v3_100000_failure.mp4"]  # filmed after all


def test_leftovers_of_a_killed_run_are_no_films(tmp_path):
    films = tmp_path / "videos" / ".films"
    films.mkdir(parents=True)
    (films / ".drawer-close-v3_100000_success.1-ab.tmp.npz").write_bytes(b"half")

    class Folder:
        videos = tmp_path / "videos"

    assert _Choice(Folder, 1).pending() == []


def test_an_episode_listed_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="twice"):
        evaluate(Watcher(), make_episodes("drawer-close", 1) * 2, tmp_path)
    with pytest.raises(InputError, match="empty"):
        evaluate(Watcher(), [], tmp_path)


def test_seeds_that_were_recorded_from_are_pointed_out(tmp_path):
    evaluation = evaluate(
        Watcher(), make_episodes("drawer-close", 1, 1000), tmp_path / "e", workers=0, max_steps=4, progress=False
    )
    assert "may be trained on" in evaluation.summary["warnings"][0]


def test_time_per_action_counts_what_ran():
    results = [{"plans": 2, "steps": 5, "plan_ms": 10.0}, {"plans": 1, "steps": 5, "plan_ms": 5.0}]
    assert ms_per_action(results) == 1.5
    assert ms_per_action([{"plans": 0, "steps": 80, "plan_ms": 0.0}]) is None  # the expert plans nothing
