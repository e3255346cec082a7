import json

import pytest

from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.episodes import make_episodes
from hf_vpdd.evaluation.results import ResultFolder, provenance


RUN = {"protocol": "lean", "policy": {"model.safetensors": "ab12"}, "view": {"cameras": ("corner2",)}}
EPISODES = make_episodes("drawer-close", 3)


def result(episode, success=True):
    return {**episode.to_dict(), "success": success, "steps": 10, "plans": 2, "reward": 1.0, "plan_ms": 3.0}


def test_what_was_appended_is_there_when_resumed(tmp_path):
    folder = ResultFolder(tmp_path / "out", RUN)
    folder.append(result(EPISODES[0]))
    folder.append(result(EPISODES[1], success=False))
    again = ResultFolder(tmp_path / "out", RUN, resume=True)
    assert [again.has(episode) for episode in EPISODES] == [True, True, False]
    assert again.results[EPISODES[1].key]["success"] is False


def test_half_a_line_of_a_killed_run_is_dropped_and_the_rest_stays_readable(tmp_path):
    folder = ResultFolder(tmp_path, RUN)
    folder.append(result(EPISODES[0]))
    with open(tmp_path / "episodes.jsonl", "a") as file:
        file.write('{"task": "drawer-cl')
    again = ResultFolder(tmp_path, RUN, resume=True)
    again.append(result(EPISODES[1]))
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [100000, 100001]


def test_results_are_not_overwritten_unasked(tmp_path):
    ResultFolder(tmp_path, RUN)
    with pytest.raises(InputError, match="--resume"):
        ResultFolder(tmp_path, RUN)


def test_results_of_another_run_are_refused_and_the_difference_is_named(tmp_path):
    ResultFolder(tmp_path, RUN)
    other = {**RUN, "policy": {"model.safetensors": "cd34"}}
    with pytest.raises(InputError, match=r"policy\.model\.safetensors was 'ab12', now 'cd34'"):
        ResultFolder(tmp_path, other, resume=True)


def test_a_damaged_line_is_named(tmp_path):
    ResultFolder(tmp_path, RUN)
    (tmp_path / "episodes.jsonl").write_text('{"task": "drawer-close-v3"}\n')
    with pytest.raises(InputError, match="episodes.jsonl line 1"):
        ResultFolder(tmp_path, RUN, resume=True)


def test_provenance_names_versions_and_revision():
    found = provenance()
    assert found["versions"]["metaworld"] and found["versions"]["torch"]
    assert found["revision"] is None or len(found["revision"].rstrip("+")) == 40
    json.dumps(found)
