"""Several datasets, several cameras: what is drawn how often, what is held out, and all three stages on them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from hf_vpdd import InputError, RobotPolicy, VPDDForVideoPrediction, VPDDProcessor
from hf_vpdd.data import FrameStore
from hf_vpdd.training import load_recipe, run_finetune, run_pretrain, run_vqvae
from hf_vpdd.training.arguments import DataArguments, parse_command_line
from hf_vpdd.training.sampling import IndexSampler
from hf_vpdd.training.stages.common import choose_episodes, open_store, store_codes
from hf_vpdd.training.stages.finetune import FinetuneTask
from hf_vpdd.training.stages.pretrain import PretrainTask, forecast_picture
from hf_vpdd.training.stages.vqvae import PixelWeights, VQVAETask

from .small_data import SIZE, TASKS, experiment, write_dataset


CAMERAS = ("corner2", "topview")
QUICK = {"steps": 2, "save_every": 0, "eval_every": 0, "log_every": 1, "tracker": "none"}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A robot with two cameras and actions; a hand of another frame rate with one camera, pictures alone. Both video
    stages are trained on the mixture."""
    root = tmp_path_factory.mktemp("mixture")
    robot = write_dataset(root / "robot", 3, cameras=CAMERAS)
    hand = write_dataset(root / "hand", 2, actions=False, state=False, fps=30, cameras=("egocentric",), length=11)
    config = experiment(robot, root / "out")
    config["train"] |= QUICK
    mixed = {
        "root": [str(robot), str(hand)],
        "camera": {str(robot): list(CAMERAS), str(hand): "egocentric"},
        "weights": [1, 3],
    }
    config["vqvae"]["data"] = config["pretrain"]["data"] = mixed
    config["data"]["camera"] = list(CAMERAS)
    vqvae = run_vqvae(load_recipe("vqvae", config))
    pretrain = run_pretrain(load_recipe("pretrain", config))
    codes = code_folders(root)  # of pre-training
    return {"config": config, "root": root, "vqvae": vqvae, "pretrain": pretrain, "codes": codes}


def code_folders(root):
    return sorted((root / "robot").glob(".cache/hf_vpdd/codes-*"))


def test_shares_are_kept_and_every_sample_of_a_group_comes_equally_often():
    groups = np.repeat([0, 1, 2], [70, 20, 10])
    sampler = IndexSampler(100, 7, seed=3, groups=groups, weights=[1, 2, 1])
    walk = np.concatenate([sampler.batch(step) for step in range(200)])  # 14 epochs
    for epoch in walk.reshape(14, 100):
        assert np.bincount(groups[epoch]).tolist() == [25, 50, 25]
    times = np.bincount(walk, minlength=100)
    for number in range(3):
        assert np.ptp(times[groups == number]) <= 1
    late = IndexSampler(100, 7, seed=3, groups=groups, weights=[1, 2, 1]).batch(
        171
    )  # no walk through the steps before
    assert (late == sampler.batch(171)).all()
    other = IndexSampler(100, 7, seed=4, groups=groups, weights=[1, 2, 1])
    assert (other.batch(0) != sampler.batch(0)).any()
    uneven = IndexSampler(11, 11, seed=0, groups=[0] * 8 + [1] * 3, weights=[1, 0])
    assert max(uneven.batch(0)) < 8
    with pytest.raises(ValueError, match="group 1 .* no samples"):
        IndexSampler(4, 2, seed=0, groups=[0] * 4, weights=[1, 1])


def test_training_draws_from_the_roots_by_weight(mixture):
    recipe = load_recipe("vqvae", mixture["config"])
    task = VQVAETask(recipe, open_store(recipe, video_only=True))
    sampler = IndexSampler(task.num_samples, 100, 0, groups=task.sample_groups, weights=task.group_weights)
    roots = np.array(task.store.roots)[task.store.frame_episode[task.indices]]
    drawn = roots[np.concatenate([sampler.batch(step) for step in range(20)])]
    assert 0.7 < (drawn == str(mixture["root"] / "hand")).mean() < 0.8
    # without weights: as many as there are
    plain = load_recipe("vqvae", mixture["config"], {"data.weights": None})
    assert VQVAETask(plain, task.store).group_weights is None


def test_an_episode_is_held_out_through_all_its_cameras(mixture):
    recipe = load_recipe("pretrain", mixture["config"])
    store = open_store(recipe, video_only=True)
    assert store.num_episodes == 2 * 6 + 4 and store.state is None
    train, held_out = choose_episodes(store, recipe.data)
    assert sorted([*train, *held_out]) == list(range(16))
    assert held_out == [4, 10, 5, 11, 14, 15]  # of the robot's two cameras and the hand's one, the last of each task
    fewer, _ = choose_episodes(store, DataArguments(**{**vars(recipe.data), "episodes_per_task": 1}))
    assert fewer == [0, 6, 1, 7, 12, 13]


def test_tokens_of_each_camera_are_made_once_for_all_stages(mixture):
    from hf_vpdd import VPDDVQVAE

    vqvae = VPDDVQVAE.from_pretrained(mixture["vqvae"])
    assert len(mixture["codes"]) == 2  # one per camera
    before = code_folders(mixture["root"])
    recipe = load_recipe("finetune", mixture["config"])
    store = open_store(recipe)
    codes = store_codes(recipe, store, vqvae)
    assert len(codes) == 2 and all(len(one) == store.num_frames for one in codes)
    assert code_folders(mixture["root"]) == before
    assert not np.array_equal(codes[0], codes[1])
    flat = store_codes(recipe, open_store(recipe, video_only=True), vqvae)
    assert np.array_equal(np.asarray(flat), np.concatenate(codes))
    with pytest.raises(InputError, match="codes were given"):
        store_codes(recipe, store, vqvae, codes[:1])


def test_video_stages_learn_from_every_root(mixture):
    metrics = json.loads((mixture["vqvae"] / "training.json").read_text())["metrics"]
    assert set(metrics) == {"psnr", "psnr_weighted", "codes_used", "psnr_robot", "psnr_hand"}
    model = VPDDForVideoPrediction.from_pretrained(mixture["pretrain"])
    assert model.config.num_views == 2
    assert VPDDProcessor.from_pretrained(mixture["pretrain"]).cameras == list(CAMERAS)


def test_pictures_show_the_cameras_side_by_side(mixture):
    recipe = load_recipe("pretrain", mixture["config"])
    task = PretrainTask(recipe, mixture["vqvae"], open_store(recipe, video_only=True), None)
    picture = forecast_picture(task.model.eval(), task.windows, 3, "cpu")
    cell = 2 * (SIZE + 2)
    assert picture.shape == (3 * cell - 4, 8 * cell - 4, 3)  # two cameras of the robot, four pictures each
    now, true = picture[: 2 * SIZE, : 2 * SIZE], picture[: 2 * SIZE, 4 * cell : 4 * cell + 2 * SIZE]
    turned = np.rot90(now, 1).astype(int)
    assert np.abs(turned - true).mean() < 6  # the second camera shows the same moment, turned
    hand = task.store.episode_from[-1]
    assert task.windows.same_moment(hand).tolist() == [hand]


def test_each_camera_has_its_own_mean_picture(mixture):
    recipe = load_recipe("vqvae", mixture["config"], pixel_weighting="deviation")
    store = open_store(recipe, video_only=True)
    weights = PixelWeights(store, recipe.options)
    assert len(weights.maps) == 2 * 2 + 2  # two tasks through each camera of each root
    rows = weights.rows(store.episode_from[[0, 2, 6, 12]])
    assert rows[0] == rows[1] and len(set(rows.tolist())) == 3


@pytest.mark.parametrize("head", ["cross_attention", "causal", "causal_multiview"])
def test_a_policy_of_two_cameras(mixture, tmp_path, head):
    overrides = {"model.action_head": head, "output_dir": str(tmp_path / "policy"), **QUICK}
    if head == "causal":
        overrides["model.state_dim"] = 0
    if head == "causal_multiview":
        overrides["model.head_patch_size"] = 8
    recipe = load_recipe("finetune", mixture["config"], overrides)
    folder = run_finetune(recipe)
    assert VPDDProcessor.from_pretrained(folder).cameras == list(CAMERAS)
    policy = RobotPolicy.from_pretrained(folder)
    frame = np.zeros((SIZE, SIZE, 3), np.uint8)
    images = {camera: frame for camera in CAMERAS}
    action = policy.select_action({"images": images, "state": np.zeros(4, np.float32), "instruction": TASKS[0]})
    assert np.asarray(action).shape == (4,) and np.isfinite(action).all()


def test_the_head_sees_both_cameras(mixture):
    recipe = load_recipe("finetune", mixture["config"])
    task = FinetuneTask(recipe, mixture["pretrain"], open_store(recipe), None)
    inputs = task.windows.inputs(task.batch(np.arange(4)), None)
    assert inputs["pixel_values"].shape[:3] == (4, 2, 1) and inputs["video_codes"].shape[:2] == (4, 2)
    one, other = inputs["pixel_values"][0, :, 0]
    assert (one.rot90(1, (1, 2)) - other).abs().mean() < 0.02


def test_bad_choices_are_named(mixture, tmp_path):
    config = mixture["config"]
    with pytest.raises(InputError, match="must name|actions|has none"):
        run_finetune(load_recipe("finetune", config, {"output_dir": str(tmp_path), "data.camera": "egocentric"},
                                 root=str(mixture["root"] / "hand")))  # fmt: skip
    with pytest.raises(InputError, match="num_views is 3, data.camera names 2"):
        run_finetune(load_recipe("finetune", config, {"model.num_views": 3, "output_dir": str(tmp_path)}))
    with pytest.raises(InputError, match="no training frame comes from it"):
        recipe = load_recipe("pretrain", config, tasks=[TASKS[0]], output_dir=str(tmp_path))
        store = open_store(recipe, video_only=True)
        first = store.subset(np.flatnonzero(np.array(store.roots) == store.roots[0]))
        hand = store.subset([12, 13])
        run_pretrain(recipe, store=FrameStore.concat([first, replace(hand, episode_task=["wave"] * 2)]))


def test_cameras_and_weights_of_a_recipe():
    def data(**values):
        return load_recipe("vqvae", {"output_dir": "o", "data": {"root": ["a", "b"], **values}}).data

    assert data(camera="x").cameras("b") == ["x"] and data(camera="x, y").cameras("a") == ["x", "y"]
    mapped = data(camera={"a": "x", "b": ["y", "z"]}, weights=[1, 0.5])
    assert mapped.cameras("b") == ["y", "z"] and mapped.weights == [1.0, 0.5]
    recipe = load_recipe("vqvae", {"output_dir": "o", "data": {"root": ["a", "b"], "camera": mapped.camera}})
    assert load_recipe("vqvae", yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe
    words = ["--output_dir", "o", "--root", "a,b", "--camera", "{a: x, b: [y, z]}", "--weights", "1,3"]
    assert parse_command_line("pretrain", words).data.camera == {"a": "x", "b": ["y", "z"]}
    for values, message in (
        ({"camera": {"a": "x"}}, "names no camera of 'b'"),
        ({"camera": {"a": "x", "b": "y", "c": "z"}}, "'c', which is not in data.root"),
        ({"camera": []}, "must be a name"),
        ({"camera": ["x", "x"]}, "names a camera twice"),
        ({"camera": 3}, "must be a name"),
        ({"camera": "{a: ["}, "not a mapping in YAML"),
        ({"weights": [1]}, "1 numbers for the 2"),
        ({"weights": [0, 0]}, "one above 0"),
        ({"weights": [-1, 2]}, "0 or more"),
    ):
        with pytest.raises(InputError, match=message):
            data(**values)
