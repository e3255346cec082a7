"""CLIP's text tower and words in OpenAI's files."""

import copy
import warnings

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection

from hf_vpdd.conversion.clip_text import load_tokenizer, read_text_tower, tokenizer_from_merges
from hf_vpdd.errors import InputError

from .clip_files import NUM_WORDS, OpenAIText, write_merges


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return OpenAIText(NUM_WORDS).eval()


@pytest.fixture(scope="module")
def archive(clip, tmp_path_factory):
    """OpenAI's form: TorchScript, half precision."""
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    ids = torch.zeros(1, 77, dtype=torch.int64)
    with warnings.catch_warnings():  # torch.jit is deprecated, but OpenAI's file is made with it
        warnings.simplefilter("ignore")
        torch.jit.trace(copy.deepcopy(clip), ids).half().save(path)  # halves what it traced
    return path


def load(tower):
    return CLIPTextModelWithProjection.from_pretrained(None, config=tower.config, state_dict=tower.weights).eval()


def test_the_same_vectors_as_the_original(clip, tmp_path):
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    tower = read_text_tower(tmp_path / "clip.pt")
    assert tower.config.num_attention_heads == 2 and tower.config.hidden_act == "quick_gelu"
    assert set(tower.dropped) == {"visual.weight", "visual.bias"}

    model, words = load(tower), tokenizer_from_merges(write_merges(tmp_path / "words.txt"))
    sentences = ["Press the  button", "open", "open the door, then press"]
    batch = words(sentences, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        ours = model(**batch).text_embeds
        # OpenAI pads with 0 and looks for the largest id; padding after the end token cannot change what is before
        theirs = clip(torch.where(batch["attention_mask"].bool(), batch["input_ids"], 0))
    assert theirs.std() > 0.1 and (theirs[0] - theirs[1]).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_archive_state_dict_and_folder_give_the_same_tower(clip, archive, tmp_path):
    half = {name: tensor.half() for name, tensor in clip.state_dict().items()}
    torch.save({"state_dict": half, "epoch": 3}, tmp_path / "state.pt")
    save_file(half, tmp_path / "state.safetensors")
    towers = [read_text_tower(path) for path in (archive, tmp_path / "state.pt", tmp_path / "state.safetensors")]
    load(towers[0]).save_pretrained(tmp_path / "folder")
    towers.append(read_text_tower(tmp_path / "folder"))
    for tower in towers:
        assert tower.weights.keys() == towers[0].weights.keys()
        for name, tensor in tower.weights.items():
            assert tensor.dtype == torch.float32 and torch.equal(tensor, towers[0].weights[name]), name
        assert tower.config.eos_token_id == NUM_WORDS - 1


def test_what_is_not_clip_is_refused(clip, tmp_path):
    state = clip.state_dict()
    for broken, words in (
        ({k: v for k, v in state.items() if k != "ln_final.bias"}, "final_layer_norm.bias"),
        ({k: v for k, v in state.items() if k != "text_projection"}, "text_projection"),
        ({**state, "transformer.extra": torch.zeros(1)}, "transformer.extra"),
        ({**state, "ln_final.bias": torch.full((128,), float("nan"))}, "ln_final.bias holds NaN"),
        ({"model.traj_model.latents": torch.zeros(2, 2)}, "not a CLIP model"),
    ):
        torch.save(broken, tmp_path / "clip.pt")
        with pytest.raises(InputError, match=words):
            read_text_tower(tmp_path / "clip.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no model"):
        read_text_tower(tmp_path / "empty")


def test_words_from_openais_list(tmp_path):
    words = tokenizer_from_merges(write_merges(tmp_path / "words.txt"))
    ids = words("PRESS the").input_ids
    # begin, "press" (the fifth merge), "the" (the seventh), end
    assert ids == [NUM_WORDS - 2, 512 + 4, 512 + 6, NUM_WORDS - 1]
    assert words.pad_token_id is not None and len(words) == NUM_WORDS
    letters = words("!~").input_ids[1:-1]  # the first byte that prints, and ASCII's last, at the end of a word
    assert letters == [0, 256 + ord("~") - ord("!")]
    words.save_pretrained(tmp_path / "folder")
    tower = OpenAIText(NUM_WORDS)
    torch.save(tower.state_dict(), tmp_path / "clip.pt")
    config = read_text_tower(tmp_path / "clip.pt").config
    assert load_tokenizer(tmp_path / "folder", config)("PRESS the").input_ids == ids


def test_other_words_are_refused(tmp_path):
    from hf_vpdd.modeling.vpdd.processing_vpdd import train_tokenizer

    torch.save(OpenAIText(NUM_WORDS).state_dict(), tmp_path / "clip.pt")
    config = read_text_tower(tmp_path / "clip.pt").config
    train_tokenizer(["press"], 300).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="knows .* tokens"):
        load_tokenizer(tmp_path / "other", config)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_tokenizer("openai/clip-vit-base-patch32", config)  # no network in tests
    (tmp_path / "words.txt").write_text("title\nonly-one-piece\n")
    with pytest.raises(InputError, match="two pieces"):
        load_tokenizer(tmp_path / "words.txt", config)
