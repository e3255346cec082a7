import pytest

from hf_vpdd.envs.registry import SIMULATORS, get_simulator
from hf_vpdd.errors import InputError
from hf_vpdd.evaluation.episodes import PROTOCOLS, default_protocol
from hf_vpdd.evaluation.policies import NullPolicy, view_for


@pytest.mark.parametrize("name", list(SIMULATORS))
def test_every_simulator_has_a_protocol_tasks_and_cameras(name):
    simulator = get_simulator(name)
    protocol = PROTOCOLS[default_protocol(name)]
    assert protocol.simulator is simulator
    tasks = simulator.resolve_tasks(protocol.tasks)
    sentences = simulator.sentences(tasks[0])
    assert len(tasks) > 1 and (sentences == (None,)) == simulator.own_sentences
    assert view_for(NullPolicy(), protocol.name).cameras == simulator.cameras
    for policy in ("expert", "null"):
        if policy not in simulator.policies:
            with pytest.raises(InputError, match="no policy"):
                simulator.check_policy(policy)
    simulator.check_policy("a/checkpoint")


def test_an_unknown_simulator_is_an_error():
    with pytest.raises(InputError, match="no simulator 'gazebo'; there are metaworld, rlbench"):
        get_simulator("gazebo")


def test_the_environment_is_made_by_name():
    env = get_simulator("metaworld").make("reach", cameras=("topview",), image_size=16, history_frames=2)
    assert env.reset(seed=0)[0]["images"]["topview"].shape == (16, 16, 3)
    env.close()
