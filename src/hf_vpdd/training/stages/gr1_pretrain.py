"""GR-1, first stage: predict the next frames of captioned video without actions (spec gr1.md §3.1).

No states, no wrist camera, no [ACT] tokens: each camera of each recording is a video of its own.
"""

from pathlib import Path
from typing import Any

import torch

from ...errors import InputError
from ..arguments import Recipe, build_config
from ..loop import Evaluation, Task, train
from .common import (
    camera_names,
    choose_episodes,
    open_store,
    quiet_transformers,
    sample_groups,
    sentences_with_paraphrases,
    weights_fingerprint,
    write_folder,
)
from .gr1_common import Gr1Windows, VideoScore, frame_features, prediction_picture, prediction_videos
from .pretrain import load_text_model, text_config


def run_gr1_pretrain(recipe: Recipe, store: Any = None) -> Path:
    """Train a `GR1ForVideoPrediction` by `recipe` (see `load_recipe("gr1_pretrain", ...)`); returns its folder.

    Args:
        store: a `FrameStore`, if it was opened already.

    Raises:
        InputError: tower weights that do not fit; episodes too short to predict anything.
    """
    store = open_store(recipe, store, video_only=True)
    return train(Gr1PretrainTask(recipe, store), recipe).output_dir


class Gr1PretrainTask(Task):
    has_unused_parameters = False

    def __init__(self, recipe: Recipe, store):
        from ...modeling.gr1 import GR1ForVideoPrediction
        from ...modeling.gr1.processing_gr1 import GR1Processor
        from ...modeling.vpdd.instruction_tokenizer import train_tokenizer

        options, data = recipe.options, recipe.data
        self.recipe, self.options, self.store = recipe, options, store
        tower = None
        if options.text_model is not None:
            tower, tokenizer = load_text_model(recipe)
            text = tower.config.to_dict()
        else:
            sentences = [s for group in sentences_with_paraphrases(sorted(set(store.episode_task))) for s in group]
            tokenizer = train_tokenizer(sentences, options.vocab_size, max_length=options.max_instruction_length)
            text = text_config(recipe, tokenizer)
        config = video_config(recipe, text)
        torch.manual_seed(recipe.train.seed)
        self.model = GR1ForVideoPrediction(config)
        core = self.model.model
        if tower is not None:
            core.text_model.load_state_dict(tower.state_dict())
        if options.image_model is not None:
            load_image_tower(core, options.image_model)
        core.action_queries.requires_grad_(False)  # nobody asks for actions yet
        self.processor = GR1Processor.from_dataset_stats(
            None, None, tokenizer, cameras=camera_names(data)[:1], image_size=config.pixel_size,
            history_frames=config.history_frames, history_stride=data.history_stride,
            action_dim=config.action_dim, binary_gripper_action=config.binary_gripper_action,
            binary_gripper_state=config.binary_gripper_state, max_instruction_length=options.max_instruction_length,
        )  # fmt: skip
        features = frame_features(recipe, store, core, self.processor) if options.cache_features else None
        train_episodes, held_out = choose_episodes(store, data)
        self.held_out = held_out
        self.windows = Gr1Windows(
            store, features, config, self.processor, data, train_episodes, held_out, recipe.train.eval_samples,
            actions=False, shift=options.random_shift, paraphrase_prob=options.paraphrase_prob,
        )  # fmt: skip
        self.num_samples = len(self.windows.train)
        self.sample_groups, self.group_weights = sample_groups(store, data, self.windows.train.frame_indices)
        self.fingerprints = {
            "dataset": store.fingerprint, "episodes": str(len(train_episodes)),
            "image_model": weights_fingerprint(core.image_model) if config.freeze_image_model else "trained",
            "text_model": weights_fingerprint(core.text_model) if config.freeze_text_model else "trained",
        }  # fmt: skip

    def batch(self, indices):
        return self.windows.batch(indices)

    def loss(self, model, batch, generator):
        return model(**self.windows.inputs(batch, generator)).loss, {}

    def evaluate(self, model, generator, device, final):
        """On held-out windows: the loss, the PSNR of predicted frames, and both for a copy of the present."""
        if self.windows.val is None:
            return Evaluation()
        score = VideoScore(model, self.processor)
        for _, inputs in self.windows.evaluation(device):
            score.add(inputs, model(**inputs).frame_patches)

        def predict(inputs):
            return model.predict_frames(**inputs)

        picture = prediction_picture(self.windows, predict, self.options.picture_samples, device)
        videos = prediction_videos(self.windows, predict, self.held_out, self.recipe.train.eval_videos, device)
        metrics = score.metrics()
        return Evaluation({"loss": metrics.pop("video_loss"), **metrics}, {"prediction": picture}, videos)

    def save_model(self, folder, model, final):
        def write(target: Path) -> None:
            model.save_pretrained(target)
            self.processor.save_pretrained(target)

        write_folder(folder, write)


def video_config(recipe: Recipe, text: dict[str, Any]):
    """GR1Config of a video model from the model section: no state, one camera, one action; the rest as it says."""
    options = recipe.options
    section = {key: value for key, value in recipe.model.items() if key != "text_config"}
    for name, given in (("image", options.image_model), ("text", options.text_model)):
        frozen = f"freeze_{name}_model"
        if section.setdefault(frozen, given is not None) and given is None:
            raise InputError(f"model.{frozen}: its weights would be random; give {name}_model, or leave it out")
    section["vision_config"] = {"layer_norm_eps": 1e-6, **section.get("vision_config", {})}  # MAE's, as GR1Config's
    section |= {"state_dim": 0, "num_views": 1, "chunk_size": 1, "predict_ahead": options.predict_ahead}
    return build_config("gr1_pretrain", section, text_config=text)


def load_image_tower(core, place: str) -> None:
    """Weights for `GR1Model.image_model`: MAE's file, timm's, or those of a folder of ours.

    Raises:
        InputError: There is nothing that can be read, or it is a tower of another size.
    """
    from ...conversion.gr1 import read_image_tower
    from ...modeling.gr1 import GR1Model

    folder = Path(place)
    if (folder / "config.json").is_file() and '"gr1"' in (folder / "config.json").read_text(encoding="utf-8"):
        with quiet_transformers():
            weights = GR1Model.from_pretrained(folder, dtype=torch.float32).image_model.state_dict()
    else:
        weights = read_image_tower(place, core.config)
    try:
        core.image_model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"image_model: {place} holds a tower of another size than model.vision_config: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
