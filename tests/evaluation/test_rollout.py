import random

import numpy as np
import pytest

from hf_vpdd.envs.metaworld import MetaWorldEnv
from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.episodes import make_episodes
from hf_vpdd.evaluation.policies import ExpertPolicy, NullPolicy, Plan, view_for
from hf_vpdd.evaluation.rollout import _Queue, rollout
from hf_vpdd.evaluation.simulators import Simulators, View

from .policies import Dreamer, Watcher


STEPS = 12


def outcomes(policy, episodes, workers, seats):
    with Simulators(view_for(policy, max_steps=STEPS), workers, seats) as simulators:
        results = [result for result, _ in rollout(policy, episodes, simulators)]
    return {(r["task"], r["seed"]): (r["success"], r["steps"], r["plans"], r["reward"]) for r in results}


def test_same_episodes_in_any_process_order_and_company():
    """One environment alone, many of two tasks in one process, and a worker process with a shuffled list: same
    results.

    The actions follow from the pictures, so pictures of another environment (the GL context fault) would show.
    """
    episodes = make_episodes("drawer-close,window-open", 2)
    alone = outcomes(Watcher(), episodes, workers=0, seats=1)
    assert len(alone) == 4
    assert len({reward for *_, reward in alone.values()}) == 4  # they do differ from one another
    assert outcomes(Watcher(), episodes, workers=0, seats=4) == alone
    shuffled = random.Random(1).sample(episodes, 4)
    assert outcomes(Watcher(), shuffled, workers=1, seats=3) == alone


def test_idle_environments_are_handed_out_and_closed_in_turn(monkeypatch):
    """A task whose environments are all in use again must not stand in the way of closing another's."""
    from hf_vpdd.evaluation import simulators

    monkeypatch.setattr(simulators, "MAX_IDLE_ENVS", 1)

    class Env:
        open = True

        def close(self):
            self.open = False

    view = View()
    stage, envs = simulators.Stage(view), [Env() for _ in range(3)]
    keys = [(task, None, 96) for task in ("drawer-close-v3", "window-open-v3", "reach-v3")]
    stage._put_back(keys[0], envs[0])
    assert stage._environment(*keys[0]) is envs[0]
    stage._put_back(keys[1], envs[1])
    stage._put_back(keys[2], envs[2])
    assert [env.open for env in envs] == [True, False, True]


def test_planning_is_batched_and_every_episode_runs_once():
    policy = Watcher()
    episodes = make_episodes("drawer-close", 5)
    results = outcomes(policy, episodes, workers=0, seats=2)
    assert sorted(seed for _, seed in results) == [episode.seed for episode in episodes]
    assert all(steps == STEPS and plans == 3 for _, steps, plans, _ in results.values())
    assert sum(policy.batches) == 15 and max(policy.batches) == 1  # too few episodes to pay for a second environment
    policy = Watcher()
    outcomes(policy, make_episodes("drawer-close", 7), workers=0, seats=2)
    assert max(policy.batches) == 2


class Committed(Watcher):
    """Plans 6 actions, of which 4 are run: each plan is given the 2 that the one before still holds."""

    real_time = True

    def __init__(self):
        super().__init__(chunk=6)
        self.execute = 4
        self.given: list[np.ndarray] = []

    def predict(self, observations, return_video=False, committed_actions=None):
        self.execute = 6  # `act` makes so many
        plan = super().predict(observations)
        self.execute = 4
        if committed_actions is not None:
            assert committed_actions.shape == (len(observations), 2, 4)
            self.given += list(committed_actions)
            plan.actions[:, :2] = committed_actions
        return plan


def test_real_time_chunking_carries_on_what_was_planned():
    policy = Committed()
    episodes = make_episodes("drawer-close", 7)
    runs = {}
    with Simulators(view_for(policy, max_steps=STEPS), 0, 2) as simulators:
        for result, film in rollout(policy, episodes, simulators, film=lambda episode: True):
            runs[result["seed"]] = film.actions
            assert result["plans"] == 3
    assert len(runs) == 7 and len(policy.given) == 14  # an episode's first plan has nothing to carry on
    for actions in runs.values():  # 3 plans of which 4 actions are run
        for begin in (4, 8):
            assert any(np.array_equal(actions[begin : begin + 2], given) for given in policy.given)
    assert len(np.unique(np.stack(policy.given), axis=0)) == 14


def test_the_expert_closes_the_drawer():
    episodes = make_episodes("drawer-close", 1)
    with Simulators(view_for(ExpertPolicy()), workers=0, seats=1) as simulators:
        ((result, film),) = rollout(ExpertPolicy(), episodes, simulators, film=lambda episode: True)
        seen = film_again(simulators, film)
    assert result["success"] and 60 < result["steps"] < 100 and result["plans"] == 0
    assert film.actions.shape == (result["steps"], 4)
    assert seen.success  # its actions alone, run again, succeed again


def film_again(simulators, film, size=24, every=1):
    episode = film.episode
    simulators.send("film", 0, episode.task, episode.seed, episode.scene, film.actions, size, every)
    (seen,) = simulators.receive()
    return seen


def test_a_film_shows_what_the_policy_saw():
    policy = Dreamer()
    with Simulators(view_for(policy, max_steps=STEPS), workers=0, seats=1) as simulators:
        ((_, film),) = rollout(policy, make_episodes("drawer-close", 1), simulators, film=lambda episode: True)
        frames = film_again(simulators, film).frames
        thinned = film_again(simulators, film, every=5).frames
    assert film.plan_steps.tolist() == [0, 4, 8]
    assert film.imagined[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert len(frames) == STEPS + 1
    for step, observation in zip(film.plan_steps, policy.observations):
        np.testing.assert_array_equal(frames[step], observation["images"]["corner2"])
    np.testing.assert_array_equal(thinned, frames[[0, 5, 10, 12]])


def test_history_holds_the_frames_that_were_there():
    """Three frames, three steps apart, with chunks of four: some lie within the last chunk, some before it."""
    policy = Watcher(chunk=4, history_frames=3, history_stride=3)
    outcomes(policy, make_episodes("drawer-close", 1), workers=0, seats=1)
    env = MetaWorldEnv("drawer-close", image_size=24)
    observation, _ = env.reset(seed=100000)
    frames = [observation["images"]["corner2"]]
    for observation in policy.observations:
        for action in policy.act(observation):
            frames.append(env.step(action)[0]["images"]["corner2"])
    for step, observation in zip((0, 4, 8), policy.observations):
        wanted = [frames[t] for t in (step - 6, step - 3, step) if t >= 0]
        np.testing.assert_array_equal(observation["images"]["corner2"], np.stack(wanted))
    env.close()


def test_every_plan_draws_from_a_generator_of_its_own():
    """So what a plan draws depends on nothing but its episode: not on the batch that it happened to be made in."""

    class Gambler(Watcher):
        def predict(self, observations, return_video=False, generator=None):
            import torch

            self.batches.append(len(observations))
            noise = [torch.rand(self.execute, 4, generator=one).numpy() * 2 - 1 for one in generator]
            return Plan(np.stack(noise))

    episodes = make_episodes("drawer-close,window-open", 1)
    alone = outcomes(Gambler(), episodes, workers=0, seats=1)
    assert outcomes(Gambler(), episodes[::-1], workers=0, seats=2) == alone
    assert len({reward for *_, reward in alone.values()}) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_the_simulator_s_complaint_reaches_the_caller(workers):
    with Simulators(View(cameras=("corner7",)), workers, 1) as simulators:
        with pytest.raises(InputError, match="corner7"):
            list(rollout(NullPolicy(), make_episodes("drawer-close", 1), simulators))


def test_a_dead_worker_is_noticed():
    with Simulators(View(image_size=24), workers=1, seats=1) as simulators:
        results = rollout(NullPolicy(), make_episodes("drawer-close", 2), simulators)
        next(results)
        simulators._processes[0].kill()
        with pytest.raises(RuntimeError, match="ended unexpectedly.*--resume"):
            list(results)


def test_actions_of_a_wrong_shape_are_refused():
    policy = NullPolicy()
    policy.chunk = policy.chunk[:4]  # execute is 8
    with Simulators(View(image_size=24), workers=0, seats=1) as simulators:
        with pytest.raises(InputError, match=r"shape \(1, 4, 4\).*at least 8"):
            list(rollout(policy, make_episodes("drawer-close", 1), simulators))


def test_queue_keeps_a_seat_at_its_task_and_spares_environments():
    queue = _Queue(make_episodes("drawer-close,window-open", 4))
    drawer, window = ("drawer-close-v3", None), ("window-open-v3", None)
    assert queue.take(None, []).task == "drawer-close-v3"
    assert queue.take(None, [drawer]).task == "window-open-v3"  # a task that nobody plays goes first
    assert queue.take(None, [drawer, window]) is None  # three left of each: one environment is enough
    assert [queue.take(window, [drawer]).seed for _ in range(3)] == [100001, 100002, 100003]
    assert queue.take(window, [drawer]) is None
    assert queue.take(window, []).task == "drawer-close-v3"  # nobody else plays it any more
    assert len([queue.take(drawer, []) for _ in range(2)]) == 2
    assert queue.take(drawer, []) is None and not any(queue.waiting.values())
