"""`import hf_vpdd`: what it makes known, and what it leaves alone."""

import importlib
import json
import subprocess
import sys

import pytest

import hf_vpdd


def in_fresh_python(code: str, *arguments: str):
    """Runs `code` in another process and returns what it printed as JSON on its last line."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_public_name_is_there():
    assert "VPDDForRobotPolicy" in hf_vpdd.__all__
    for name in hf_vpdd.__all__:
        assert getattr(hf_vpdd, name) is not None
        assert name in dir(hf_vpdd)


def test_public_classes_live_where_saved_files_say():
    for name, module in hf_vpdd._HOME.items():
        home = importlib.import_module(f"hf_vpdd.{module}")
        assert getattr(home, name).__module__ == home.__name__, f"{name} is only re-exported by {home.__name__}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="VPDDForEverything"):
        hf_vpdd.VPDDForEverything


def test_importing_registers_and_loads_nothing_heavy():
    found = in_fresh_python(
        """
import json, sys
from transformers import AutoModel, PreTrainedModel, pipeline
before = set(sys.modules)
import hf_vpdd
added = sorted(set(sys.modules) - before)
from transformers import CONFIG_MAPPING, MODEL_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
policy = CONFIG_MAPPING["vpdd"]
print(json.dumps({
    "added": added,
    "model": [model.__name__ for model in MODEL_MAPPING[policy]],
    "tokenizer": MODEL_MAPPING[hf_vpdd.VPDDVQVAEConfig].__name__,
    "processor": PROCESSOR_MAPPING[policy].__name__,
    "gr1": [MODEL_MAPPING[CONFIG_MAPPING["gr1"]][0].__name__, PROCESSOR_MAPPING[CONFIG_MAPPING["gr1"]].__name__],
    "task": PIPELINE_REGISTRY.check_task("robot-policy")[1]["impl"].__name__,
    "default": PIPELINE_REGISTRY.check_task("robot-policy")[1]["default"]["model"][0],
}))
"""
    )
    assert found["model"] == ["VPDDForRobotPolicy", "VPDDForVideoPrediction"]  # the first where nothing is recorded
    assert found["tokenizer"] == "VPDDVQVAE"
    assert found["processor"] == "VPDDProcessor"
    assert found["gr1"] == ["GR1ForRobotPolicy", "GR1Processor"]
    assert found["task"] == "RobotPolicyPipeline"
    assert found["default"].endswith("vpdd-metaworld-mt10")
    # What would cost import time, on top of transformers: diffusers' pipelines, which pull peft in, and these. (Quiet
    # two-core machine: transformers' three names 2.6 s, hf_vpdd 0.15 s more, most of it the base class of schedulers.)
    heavy = (
        "av", "datasets", "diffusers.pipelines.pipeline_utils", "gymnasium", "matplotlib", "metaworld", "mujoco",
        "pandas", "peft", "pyarrow", "scipy.stats", "tensorboard", "torchvision",
    )  # fmt: skip
    assert [module for module in heavy if module in found["added"]] == []
    assert len(found["added"]) < 300


def test_registering_twice_is_silent():
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import hf_vpdd; hf_vpdd.register(); hf_vpdd.register()"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert printed.returncode == 0, printed.stderr
    assert "already registered" not in printed.stderr


def test_inside_the_command_nothing_is_registered_until_asked(tmp_path):
    script = tmp_path / "hf-vpdd"
    script.write_text(
        "import sys, hf_vpdd\nassert 'torch' not in sys.modules\n"
        "hf_vpdd.register()\nfrom transformers import CONFIG_MAPPING\nassert 'vpdd' in CONFIG_MAPPING\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
