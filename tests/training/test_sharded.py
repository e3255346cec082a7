"""Several real processes (gloo): whole models that stay equal (DDP), and models cut into slices (FSDP2), which are to
end where whole ones end. Two groups of processes run everything; see all_stages.py and sharded_runs.py.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hf_vpdd

from .all_stages import RUNS, SHARDABLE
from .small_data import write_dataset
from .test_loop import metrics, same_weights


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_dataset(folder / "data", cameras=("corner2", "wrist"))
    return folder


def launch(launcher: list[str], *words) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "FSDP_"))}
    paths = [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", *launcher, "-m", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def port(number: int) -> str:
    return str(20000 + (os.getpid() * 7 + number) % 20000)


@pytest.fixture(scope="module")
def whole(work):
    """Folder of DDP runs of every stage."""
    launcher = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", port(1)]
    launch(launcher, "tests.training.all_stages", work, "whole")
    return work / "whole"


@pytest.fixture(scope="module")
def sharded(work):
    """Folder of FSDP2 runs, and what else sharded_runs.py has found."""
    launcher = ["accelerate.commands.launch", "--config_file", "recipes/accelerate/fsdp2_cpu_test.yaml"]
    launch([*launcher, "--main_process_port", port(2)], "tests.training.sharded_runs", work)
    return work / "sharded", json.loads((work / "found.json").read_text())


def check_equal_runs(*folders: Path) -> None:
    """Two runs had the same losses and ended with the same weights, but for rounding."""
    ours, theirs = (metrics(folder) for folder in folders)
    assert [sorted(line) for line in ours] == [sorted(line) for line in theirs]
    for one, other in zip(ours, theirs):
        for key, value in one.items():
            assert other[key] == pytest.approx(value, rel=2e-3, abs=1e-4), key
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        if ".convs." in key and key.endswith(".bias"):
            continue  # a norm follows, so its gradient is nought but for rounding, which Adam blows up
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=5e-4, msg=key)
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert configs[0]["architectures"] == configs[1]["architectures"] and configs[0].keys() == configs[1].keys()


@pytest.mark.parametrize("name", RUNS)
def test_whole_models_end_equal_in_all_processes(whole, name):
    first, second = json.loads((whole / "ranks.json").read_text())
    assert first[name] == second[name]


@pytest.mark.parametrize("name", SHARDABLE)
def test_a_sharded_run_ends_where_a_whole_one_does(whole, sharded, name):
    check_equal_runs(whole / name, sharded[0] / name)


def test_saved_policies_of_sharded_runs_load(sharded):
    policy = hf_vpdd.VPDDForRobotPolicy.from_pretrained(sharded[0] / "finetune")
    assert not any(p.is_meta for p in policy.parameters())
    adapter = load_file(sharded[0] / "lora" / "adapter" / "adapter_model.safetensors")
    assert adapter and all(value.ndim for value in adapter.values())
    half = load_file(sharded[0].parent / "half" / "finetune" / "model.safetensors")
    assert all(value.dtype == torch.float32 for value in half.values() if value.is_floating_point())


def test_a_sharded_run_in_bfloat16_is_near_one_in_float32(sharded):
    losses = [metrics(folder / "finetune")[0]["train/loss"] for folder in (sharded[0], sharded[0].parent / "half")]
    assert losses[1] == pytest.approx(losses[0], rel=0.05) and losses[1] != losses[0]


def test_a_stopped_sharded_run_goes_on_bit_for_bit(sharded):
    folder = sharded[0].parent
    steps = json.loads((folder / "stopped" / "training.json").read_text())["steps"]
    assert steps == 20 and same_weights(folder / "stopped", folder / "whole_toy")
    assert metrics(folder / "stopped") == metrics(folder / "whole_toy")


def test_whole_models_go_on_from_a_sharded_checkpoint(sharded):
    folder = sharded[0].parent
    ours, theirs = (load_file(folder / name / "model.safetensors") for name in ("replicated", "whole_toy"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def test_a_bad_step_of_a_sharded_run_changes_nothing(sharded):
    folder = sharded[0].parent / "bad"
    assert json.loads((folder / "training.json").read_text())["skipped_steps"] == 1
    state = torch.load(folder / "checkpoint-000001" / "state.pt", weights_only=True)
    for moments in state["optimizer"]["state"].values():
        assert float(moments["step"]) == 0 and not moments["exp_avg"].any()


def test_every_architecture_computes_the_same_when_cut_by_its_declared_classes(sharded):
    for name, (loss, norm, loss_cut, norm_cut, kinds) in sharded[1]["variants"].items():
        assert loss_cut == pytest.approx(loss, rel=1e-5) and norm_cut == pytest.approx(norm, rel=1e-5), name
        assert kinds > 1, name  # its blocks, and not the whole alone


def test_what_cannot_be_sharded_says_so(sharded):
    refused = sharded[1]["refusals"]
    assert "slow copy" in refused["icvf"] and "multi_gpu_bf16.yaml" in refused["offline_rl"]
    assert "--compile" in refused["compile"]


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed, and is no dependency")
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_ends_where_whole_models_do(work, whole, stage):
    folder = work / f"zero{stage}"
    folder.mkdir()
    (folder / "data").symlink_to(work / "data")
    launcher = ["accelerate.commands.launch", "--config_file", f"recipes/accelerate/deepspeed_zero{stage}.yaml"]
    launcher += ["--num_processes", "2", "--main_process_port", port(2 + stage)]
    launch(launcher, "tests.training.sharded_runs", folder)
    for name in SHARDABLE:
        check_equal_runs(whole / name, folder / "sharded" / name)
    assert same_weights(folder / "stopped", folder / "whole_toy")
    assert metrics(folder / "stopped") == metrics(folder / "whole_toy")
    assert json.loads((folder / "bad" / "training.json").read_text())["skipped_steps"] == 1
    assert "slow copy" in json.loads((folder / "found.json").read_text())["refusals"]["icvf"]
