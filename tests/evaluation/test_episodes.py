import pytest

from hf_vpdd.envs.metaworld import PROTOCOLS as SIMULATED
from hf_vpdd.envs.tasks import METAWORLD_TASKS, MT10
from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.episodes import FIRST_EVALUATION_SEED, PERTURBATIONS, PROTOCOLS, make_episodes


def test_the_list_is_explicit_and_always_the_same():
    episodes = make_episodes("mt10", 3)
    assert episodes == make_episodes("mt10", 3)
    assert [episode.task for episode in episodes[::3]] == list(MT10)
    assert [episode.seed for episode in episodes[:3]] == [100000, 100001, 100002]
    assert episodes[0].instruction == METAWORLD_TASKS[MT10[0]].instruction
    assert len({episode.key for episode in episodes}) == 30


def test_a_longer_list_begins_with_the_shorter_one():
    """So that `--resume` with more episodes runs only the new ones."""
    assert set(make_episodes("drawer-close", 2)) < set(make_episodes("drawer-close", 5))


def test_paraphrases_are_held_out_and_leave_the_scene_alone():
    for episodes in (
        make_episodes("drawer-close", 4, paraphrase=True),
        make_episodes("drawer-close", 4, 100000, "paraphrase"),
    ):
        task = METAWORLD_TASKS["drawer-close-v3"]
        assert {episode.instruction for episode in episodes} == set(task.heldout_paraphrases)
        assert {(episode.perturbation, episode.scene) for episode in episodes} == {("paraphrase", None)}


def test_other_perturbations_reach_the_scene_and_not_the_words():
    (episode,) = make_episodes("drawer-close", 1, perturbation="light")
    assert (episode.scene, episode.instruction) == ("light", METAWORLD_TASKS["drawer-close-v3"].instruction)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("drawer-clos", 1), "drawer-close"),
        (("drawer-close", 0), "at least 1"),
        (("drawer-close", 1, -1), "negative"),
        (("drawer-close", 1, 0, "fog"), "fog.*camera, .*light"),
        (("drawer-close", 1, 0, "light", True), "one perturbation"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        make_episodes(*arguments)


def test_defaults_keep_away_from_what_was_recorded():
    assert FIRST_EVALUATION_SEED == 100000
    assert PROTOCOLS["lean"].seed == PROTOCOLS["vpdd"].seed == FIRST_EVALUATION_SEED
    assert PROTOCOLS["lerobot-mt50"].seed == 1000  # LeRobot's own
    assert "lean renderer" in PROTOCOLS["lean"].label  # results under it must say so


def test_protocols_and_perturbations_are_those_of_the_simulator():
    assert {name for name, one in PROTOCOLS.items() if one.env == "metaworld"} == set(SIMULATED)
    assert {"camera", "light", "table_color", "distractor", "paraphrase"} <= set(PERTURBATIONS)
