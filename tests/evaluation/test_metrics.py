import math

import numpy as np
import pytest

from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.metrics import (
    chain_statistics,
    mean_over_tasks,
    score,
    score_by_task,
    success_rate,
    wilson_interval,
)


# 5 of 10 and 96 of 100 as R gives them: prop.test(5, 10, correct=FALSE); 0 of n is z²/(n+z²).
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),  # z²/(n+z²)
        (10, 10, 0.72247, 1.0),
        (5, 10, 0.23659, 0.76341),
        (96, 100, 0.90163, 0.98434),
        (1, 2, 0.09453, 0.90547),
    ],
)
def test_wilson_matches_known_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=2e-5)


def test_wilson_solves_the_score_equation():
    """The ends of the interval are the rates p at which the observed rate is exactly z standard errors away."""
    for successes, n in [(3, 7), (40, 50), (1, 300)]:
        for p in wilson_interval(successes, n, z=1.7):
            assert abs(successes / n - p) == pytest.approx(1.7 * math.sqrt(p * (1 - p) / n), rel=1e-9)


def test_wilson_is_exact_at_the_ends_and_knows_nothing_of_nothing():
    assert wilson_interval(0, 5)[0] == 0.0
    assert wilson_interval(5, 5)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


def test_scores_count_per_task_and_average_over_tasks():
    results = [{"task": "a", "success": True, "steps": 10}] * 3 + [{"task": "a", "success": False, "steps": 200}]
    results += [{"task": "b", "success": False, "steps": 200}]
    first, second = score_by_task(results)
    assert (first.name, first.successes, first.episodes, first.rate, first.steps) == ("a", 3, 4, 0.75, 10)
    assert (second.name, second.successes, second.episodes, second.steps) == ("b", 0, 1, None)
    assert mean_over_tasks([first, second]) == 0.375  # tasks count alike; the pooled rate would be 0.6
    assert score("all", results).rate == 0.6


def test_success_rate_of_plain_values_equals_the_score_of_episodes():
    found = success_rate([1, 0, True, np.bool_(False)], ["a", "b", "a", "b"])
    assert (found["success_rate"], found["episodes"]) == (0.5, 4)
    assert (found["low"], found["high"]) == wilson_interval(2, 4)
    assert found["tasks"]["a"]["success_rate"] == 1 and found["mean_over_tasks"] == 0.5
    assert success_rate([]) == {"success_rate": 0.0, "low": 0.0, "high": 1.0, "successes": 0, "episodes": 0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: success_rate([0.5]), "true or false"),
        (lambda: success_rate([1, 0], ["a"]), "one for each of 2"),
        (lambda: chain_statistics([6]), r"0\.\.5"),
        (lambda: chain_statistics([1.5]), "whole numbers"),
        (lambda: chain_statistics([[1]]), "whole numbers"),
    ],
)
def test_values_that_are_none_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_chains_of_another_length():
    found = chain_statistics([3, 3, 0], chain_length=3)
    assert found["average_length"]["mean"] == 2 and found["success_in_a_row"][2]["successes"] == 2
    assert len(found["success_in_a_row"]) == 3
