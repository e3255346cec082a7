"""Training on codes made before: no frames are decoded, the result is the same, foreign codes are refused."""

import numpy as np
import pytest
import torch

from hf_vpdd import InputError, VPDDForRobotPolicy, VPDDForVideoPrediction
from hf_vpdd.cli import main
from hf_vpdd.data import encode_video
from hf_vpdd.training import load_recipe, run_finetune, run_pretrain
from hf_vpdd.training.stages.common import open_store, store_codes
from tests.data.small_tokenizers import write_vqvae

from .small_data import SIZE, experiment, write_dataset


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A robot's data and a hand's videos, a tokenizer, and the codes of both in one folder."""
    root = tmp_path_factory.mktemp("codes")
    write_dataset(root / "robot", 3)
    generator = np.random.default_rng(0)
    for number, fps in enumerate((10, 20)):
        frames = generator.integers(0, 255, (25, 1, 1, 3), dtype=np.uint8).repeat(40, 1).repeat(48, 2)
        encode_video(root / "hand" / f"{number}.mp4", frames, fps=fps)
    write_vqvae(root / "vqvae", image_size=SIZE, codebook_size=32)
    for name, more in (("robot", ()), ("hand", ("--fps", "10"))):
        words = ["tokenize", root / name, "--vqvae", root / "vqvae", "--out", root / "codes", "--shard-size", "7"]
        assert main([*map(str, words), *more]) == 0
    config = experiment(root / "robot", root / "out")
    config["train"] |= {"steps": 2, "save_every": 0, "eval_every": 0, "log_every": 1, "tracker": "none"}
    config["model"] |= {"image_channels": 0, "head_keypoints": 0, "predict_ahead": 4}
    mixed = {
        "root": [str(root / "robot"), str(root / "hand")],
        "camera": {str(root / "robot"): "corner2", str(root / "hand"): "video"}, "fps": {str(root / "hand"): 10},
    }  # fmt: skip
    config["pretrain"]["data"] = mixed
    config["init_from"] = str(root / "vqvae")
    return {"root": root, "config": config, "codes": {"data.codes": [str(root / "codes")]}}


def weights(folder, kind=VPDDForVideoPrediction):
    return kind.from_pretrained(folder).state_dict()


def decoded(root):
    return sorted(str(path.relative_to(root)) for path in root.glob("*/.cache/hf_vpdd/frames-*"))


def test_pretraining_on_codes_decodes_nothing_and_learns_the_same(road):
    root, before = road["root"], decoded(road["root"])
    assert sorted(path.name for path in (root / "codes").iterdir()) == ["hand-video", "robot-corner2"]
    given = run_pretrain(load_recipe("pretrain", road["config"], road["codes"], output_dir=str(root / "given")))
    assert decoded(root) == before and not list(root.glob("*/.cache/hf_vpdd/codes-*"))
    made = run_pretrain(load_recipe("pretrain", road["config"], output_dir=str(root / "made")))
    assert decoded(root) == before and len(list(root.glob("*/.cache/hf_vpdd/codes-*"))) == 2
    one, two = weights(given), weights(made)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert list((given / "pictures").iterdir())  # of a few frames that are decoded when they are looked at


def test_a_policy_that_looks_at_pictures_has_them_decoded(road):
    root = road["root"]
    folder = run_pretrain(load_recipe("pretrain", road["config"], road["codes"], output_dir=str(root / "before")))
    overrides = road["codes"] | {"init_from": str(folder), "output_dir": str(root / "policy")}
    recipe = load_recipe("finetune", road["config"], overrides, **{"model.head_keypoints": 4})
    policy = run_finetune(recipe)
    assert any(name.startswith("robot") for name in decoded(root))
    assert VPDDForRobotPolicy.from_pretrained(policy).config.head_keypoints == 4


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"data.codes": ["nowhere"]}, "data.codes: nowhere is no folder; make it: hf-vpdd tokenize"),
        ({"data.codes": []}, "data.codes is empty"),
        ({"init_from": "other"}, "were made with tokenizer '[0-9a-f]{16}', needed is '[0-9a-f]{16}'"),
        ({"init_from": "clips"}, "were made with clip_frames 2, needed is 1"),
        ({"init_from": "large", "data.image_size": 64}, "no video codes of .*robot, camera 'corner2', 64 px"),
        ({"data.fps": {"hand": 5}}, "no video codes of .*hand, camera 'video', 32 px, 5 fps .* What is: .*10 fps"),
        ({"data.codes": ["robot"]}, "robot holds no video codes"),
    ],
)
def test_codes_of_something_else_are_refused(road, overrides, message):
    root = road["root"]
    if not (root / "clips").exists():
        write_vqvae(root / "other", seed=1, image_size=SIZE, codebook_size=32)
        write_vqvae(root / "clips", image_size=SIZE, codebook_size=32, clip_frames=1)
        write_vqvae(root / "large", image_size=64, codebook_size=32)
    given = dict(overrides)
    if "init_from" in given:
        given["init_from"] = str(root / given["init_from"])
    if "data.fps" in given:
        given["data.fps"] = {str(root / name): fps for name, fps in given["data.fps"].items()}
    if given.get("data.codes") == ["robot"]:
        given["data.codes"] = [str(root / "robot")]
    with pytest.raises(InputError, match=message):
        run_pretrain(load_recipe("pretrain", road["config"], road["codes"] | given, output_dir=str(root / "refused")))


def test_codes_of_every_view_and_of_a_subset(road):
    from hf_vpdd import VPDDVQVAE
    from hf_vpdd.data import WindowDataset

    recipe = load_recipe("pretrain", road["config"], road["codes"])
    store = open_store(recipe, video_only=True, decode=False)
    codes = store_codes(recipe, store, VPDDVQVAE.from_pretrained(road["root"] / "vqvae"))
    assert codes.shape == (store.num_frames, 2, 4, 4)
    few = store.subset([1, 6])
    batch = WindowDataset(few, codes, with_actions=False, with_pixels=False, predict_ahead=4)[[0, 17, 18]]
    rows = few.rows[[0, 17, 18]]
    assert (batch["history_codes"][:, 0].numpy() == codes[rows]).all()
    assert (batch["video_codes"][1, 0].numpy() == codes[rows[1]]).all()  # the last of its episode
    assert batch["history_codes"].dtype == torch.int64 and batch["history_codes"].is_contiguous()
