import pytest

from hf_vpdd.envs.tasks import GROUPS, METAWORLD_TASKS, MT10, QUICKSTART_TASKS, instruction, resolve_tasks, task_info
from hf_vpdd.errors import InputError


def test_all_fifty_tasks_of_the_installed_metaworld_are_there():
    env_dict = pytest.importorskip("metaworld.env_dict")
    assert set(METAWORLD_TASKS) == set(env_dict.ALL_V3_ENVIRONMENTS)
    assert MT10 == tuple(env_dict.MT10_V3)


def test_difficulty_groups_are_lerobots():
    assert [len(GROUPS[name]) for name in ("easy", "medium", "hard", "very_hard")] == [28, 11, 6, 5]
    assert task_info("shelf-place").difficulty == "very_hard"
    assert set(QUICKSTART_TASKS) < set(METAWORLD_TASKS)


def test_every_sentence_belongs_to_one_task_and_one_split():
    sentences = [
        sentence
        for task in METAWORLD_TASKS.values()
        for sentence in (task.instruction, *task.paraphrases, *task.heldout_paraphrases)
    ]
    assert len(sentences) == 50 * 7
    assert len(set(sentences)) == len(sentences)
    assert all(sentence == sentence.strip() and len(sentence.split()) >= 3 for sentence in sentences), sentences


@pytest.mark.parametrize("name", ["drawer-close-v3", "drawer-close", "Drawer_Close", "metaworld-drawer-close-v3"])
def test_names_are_accepted_in_every_usual_spelling(name):
    assert task_info(name).name == "drawer-close-v3"
    assert instruction(name) == "close the drawer"


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(InputError, match="drawer-close-v3"):
        task_info("drawer-clsoe")


def test_groups_and_tasks_mix_without_repeats():
    assert resolve_tasks("quickstart, push,drawer-close") == (*QUICKSTART_TASKS, "push-v3")
    assert len(resolve_tasks("all")) == 50
    assert resolve_tasks("very-hard") == GROUPS["very_hard"]
    with pytest.raises(InputError, match="no task"):
        resolve_tasks(" , ")
