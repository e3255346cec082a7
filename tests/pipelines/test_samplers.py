"""Any sampler may sit in the diffusers pipeline, and is there again after saving and loading."""

import numpy as np
import pytest

from hf_vpdd.pipelines import VPDDPipeline
from hf_vpdd.schedulers import SAMPLERS, build_sampler
from tests.pipelines.tiny_policy import observation, tiny_policy


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_sampler_is_saved_with_the_pipeline(name, tmp_path):
    model, processor = tiny_policy()
    sampler = build_sampler(name, {**model.scheduler.config, "_use_default_values": [], "choice_temperature": 0.5})
    pipe = VPDDPipeline(model=model, scheduler=sampler, processor=processor)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    again = VPDDPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is SAMPLERS[name] and again.scheduler.config.choice_temperature == 0.5
    obs = observation()
    options = {"temperature": 0.0, "video_temperature": 0.0, "num_inference_steps": 1}
    plans = [p(obs["images"], obs["instruction"], state=obs["state"], **options) for p in (pipe, again)]
    assert np.array_equal(plans[0].actions, plans[1].actions)
    assert np.array_equal(plans[0].videos, plans[1].videos)
