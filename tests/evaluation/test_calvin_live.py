"""The chains in the real simulator; skipped where it is not installed."""

import os

import pytest

from hf_vpdd import RobotPolicy
from hf_vpdd.evaluation.calvin_run import CalvinSettings, evaluate_calvin


pytestmark = pytest.mark.skipif(
    not all(os.environ.get(name) for name in ("HF_VPDD_CALVIN_PYTHON", "HF_VPDD_CALVIN_ROOT")),
    reason="needs CALVIN (hf-vpdd doctor calvin)",
)


def test_a_gr1_plays_chains_alike_for_any_number_of_workers(tmp_path):
    from tests.pipelines.tiny_gr1 import tiny_gr1_policy

    model, processor = tiny_gr1_policy()
    digests = []
    for workers in (1, 2):
        settings = CalvinSettings(chains=2, workers=workers, max_steps=8, videos=1)
        evaluation = evaluate_calvin(RobotPolicy(model, processor), tmp_path / str(workers), settings, progress=False)
        digests.append([result["digest"] for result in evaluation.results])
        assert [result["steps"] for result in evaluation.results] == [8, 8] and len(evaluation.videos) == 1
    assert digests[0] == digests[1] and len(set(digests[0])) == 2
