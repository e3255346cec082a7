"""What is wrong is said before any long work, and nothing half-written is left."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_vpdd.errors import InputError
from hf_vpdd.training import disk, load_recipe, run_finetune, run_vqvae
from hf_vpdd.training.checkpoints import FORMAT_VERSION, check_checkpoint, list_checkpoints
from hf_vpdd.training.loop import train
from hf_vpdd.training.preflight import check_before_work
from hf_vpdd.training.stages import common

from .small_data import SIZE, experiment, write_dataset
from .toy import ToyTask, toy_recipe


ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---------------------------------------------------------------------------------------------------------- full disk


@pytest.mark.parametrize("place", ["state", "model"])
def test_a_disk_that_fills_up_during_a_save_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, place):
    """Write calls refuse as a full disk does; what is there stays, what was begun goes."""

    class Filling(ToyTask):
        def save_model(self, folder, model, final):
            if place == "model" and "000010" in str(folder):
                folder.mkdir(parents=True)
                (folder / "half").write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, "No space left on device", str(folder))
            super().save_model(folder, model, final)

    real = torch.save

    def full(state, file, *more, **options):
        if place == "state" and "000010" in file.name:
            file.write(b"half of it")
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed") from OSError(
                errno.ENOSPC, "No space left on device"
            )
        return real(state, file, *more, **options)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"the disk is full. About [\d,]+ bytes .* [\d,]+ bytes .* are free") as error:
        train(Filling(), toy_recipe(tmp_path))
    assert str(tmp_path) in str(error.value)
    (left,) = list_checkpoints(tmp_path)
    assert left.name == "checkpoint-000005" and check_checkpoint(left)["step"] == 5
    assert not [name for name in names(tmp_path) if name.endswith(".tmp") or name.startswith(".checkpoint")]
    monkeypatch.undo()
    task = ToyTask(seed=9)
    train(task, toy_recipe(tmp_path))  # with room again, it goes on from there
    assert task.seen == 20 * 16


def test_a_real_limit_on_file_sizes_is_met_in_words(tmp_path):
    """The operating system itself refuses: files of this process may have 4 KiB."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from hf_vpdd.training.checkpoints import save_checkpoint; import torch\n"
        "save_checkpoint(sys.argv[1], 1, {'w': torch.ones(2)}, {})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "save_checkpoint(sys.argv[1], 2, {'w': torch.ones(9999)}, {})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1 and "the disk is full. About 39,996 bytes" in done.stderr, done.stderr
    assert names(tmp_path) == {"checkpoint-000001"}
    check_checkpoint(tmp_path / "checkpoint-000001")


def test_too_little_room_for_one_checkpoint_is_said_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 1000)
    task = ToyTask()
    with pytest.raises(InputError, match=r"a checkpoint takes about [\d,]+ bytes \(0.0 MB\), 1,000 bytes"):
        train(task, toy_recipe(tmp_path))
    assert task.seen == 0 and not list_checkpoints(tmp_path)


def test_other_errors_of_a_save_stay_what_they_are(tmp_path):
    class Broken(ToyTask):
        def save_model(self, folder, model, final):
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        train(Broken(), toy_recipe(tmp_path))
    with pytest.raises(PermissionError), disk.full_disk_named(tmp_path, 10):
        raise PermissionError(errno.EACCES, "Permission denied")


# --------------------------------------------------------------------------------------------- folders, devices, files


def test_an_output_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="is a file, not a folder: give another --output_dir"):
        check_before_work(toy_recipe(tmp_path / "file" / "run"))
    if Path("/proc").is_dir():
        with pytest.raises(InputError, match="output_dir /proc/nothing/run cannot be written to"):
            check_before_work(toy_recipe("/proc/nothing/run"))
    if os.getuid():  # root may write everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(InputError, match="cannot be written to .Permission denied"):
            check_before_work(toy_recipe(tmp_path / "locked" / "run"))
    check_before_work(toy_recipe(tmp_path / "new" / "run"))
    assert not (tmp_path / "new").exists(), "asking must leave nothing behind"


def test_a_checkpoint_of_a_newer_version(tmp_path):
    train(ToyTask(), toy_recipe(tmp_path, steps=5))
    record = tmp_path / "checkpoint-000005" / "checkpoint.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "format_version": FORMAT_VERSION + 1}))
    with pytest.raises(InputError, match="written by a newer version of hf_vpdd .* update the package"):
        check_before_work(toy_recipe(tmp_path))
    with pytest.raises(InputError, match="newer version"):
        check_before_work(toy_recipe(tmp_path / "elsewhere", resume=str(tmp_path / "checkpoint-000005")))
    check_before_work(toy_recipe(tmp_path, resume="no"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_float16_needs_a_gpu(tmp_path):
    with pytest.raises(InputError, match="fp16 needs a GPU; on the CPU use bf16"):
        train(ToyTask(), toy_recipe(tmp_path / "run", mixed_precision="fp16"))
    assert not (tmp_path / "run").exists()


def test_the_scripts_ask_first(tmp_path, monkeypatch, capsys):
    from hf_vpdd.training.scripts import main

    (tmp_path / "file").write_text("in the way")
    started = []
    arguments = ["--output_dir", str(tmp_path / "file" / "run"), "--root", "data", "--tracker", "none"]
    assert main("vqvae", started.append, None, arguments) == 2
    assert not started and capsys.readouterr().err.startswith("error: output_dir")


# --------------------------------------------------------------------------------------------------------------- data


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    return root, write_dataset(root / "data", episodes_per_task=2)


def refuse_to_decode(*arguments, **options):
    raise AssertionError("frames were decoded before the input was checked")


def test_a_camera_that_one_of_the_datasets_lacks(small, tmp_path, monkeypatch):
    root, data = small
    other = write_dataset(tmp_path / "other", episodes_per_task=2, cameras=("wrist",))
    config = experiment(data, tmp_path / "out")
    config["data"]["root"] = [str(data), str(other)]
    monkeypatch.setattr("hf_vpdd.data.multiview.build_views", refuse_to_decode)
    with pytest.raises(InputError, match="other has no camera 'corner2'; its cameras are"):
        run_vqvae(load_recipe("vqvae", config))


def policy_folder(folder: Path, **changes) -> Path:
    """What is read of a policy before data is opened."""
    folder.mkdir(parents=True)
    config = {"model_type": "vpdd", "architectures": ["VPDDForRobotPolicy"], "action_dim": 4, "state_dim": 4}
    processor = {"cameras": ["corner2"], "image_size": SIZE}
    for name, content in (("config.json", config), ("processor_config.json", processor)):
        content = {key: changes.get(key, value) for key, value in content.items()}
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_dim": 7}, "action has 4 numbers, the policy in .* was trained with 7"),
        ({"state_dim": 9}, "observation.state has 4 numbers, the policy in .* was trained with 9"),
        ({"cameras": ["front"]}, "looks through front, data.camera is corner2"),
    ],
)
def test_a_policy_that_does_not_fit_the_data(small, tmp_path, monkeypatch, changes, message):
    root, data = small
    config = experiment(data, tmp_path / "out")
    folder = policy_folder(tmp_path / "policy", **changes)
    monkeypatch.setattr("hf_vpdd.data.multiview.build_views", refuse_to_decode)
    with pytest.raises(InputError, match=message):
        run_finetune(load_recipe("finetune", config, init_from=str(folder)))


def test_a_policy_that_fits_goes_on_to_the_data(small, tmp_path):
    root, data = small
    recipe = load_recipe("finetune", experiment(data, tmp_path / "out"))
    common.check_data(recipe, policy_folder(tmp_path / "policy"))
