"""CLIP's text tower and tokenizer in OpenAI's files -> `CLIPTextModelWithProjection` and `CLIPTokenizer`.

VPDD embeds an instruction with the tower of CLIP RN50 (spec §3.6). OpenAI publishes it as a TorchScript archive in
half precision; official VPDD calls it `clip.pt`.
"""

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from ..errors import InputError
from .torch_files import check_finite, check_tensors, is_torchscript, read_checkpoint, read_torchscript_tensors


# (OpenAI's name, transformers' name); {i} is a layer
_NAMES = (
    (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"transformer\.resblocks\.(\d+)\.ln_1\.(weight|bias)", r"text_model.encoder.layers.\1.layer_norm1.\2"),
    (r"transformer\.resblocks\.(\d+)\.ln_2\.(weight|bias)", r"text_model.encoder.layers.\1.layer_norm2.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(weight|bias)", r"text_model.encoder.layers.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(weight|bias)", r"text_model.encoder.layers.\1.mlp.fc2.\2"),
    (
        r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(weight|bias)",
        r"text_model.encoder.layers.\1.self_attn.out_proj.\2",
    ),
    (
        r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)",
        r"text_model.encoder.layers.\1.self_attn.{qkv}_proj.\2",
    ),
    (r"ln_final\.(weight|bias)", r"text_model.final_layer_norm.\1"),
    (r"text_projection", "text_projection.weight"),
)
_IMAGE_TOWER = "CLIP's image tower and constants: only sentences are read"
_HEAD_SIZE = 64  # of every text tower that OpenAI published


@dataclass
class TextTower:
    """`weights` by the names of `CLIPTextModelWithProjection`, float32; `kept` and `dropped` official names."""

    config: CLIPTextConfig
    weights: dict[str, torch.Tensor]
    kept: list[str]
    dropped: dict[str, str]


def read_text_tower(path: str | Path) -> TextTower:
    """
    Args:
        path: OpenAI's file (TorchScript archive), its state_dict (.pt, .safetensors), or a folder in which
            transformers saved a `CLIPTextModelWithProjection` or `CLIPModel`.

    Raises:
        InputError: Not there, unsafe, damaged, or not CLIP.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.is_file() and is_torchscript(path):
        state = read_torchscript_tensors(path)
    else:
        state = read_checkpoint(path)
        if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
            state = state["state_dict"]
        if isinstance(state, Mapping):  # a state_dict of the archive also holds context_length and the like
            state = {name: value for name, value in state.items() if not isinstance(value, (int, float))}
        state = check_tensors(state, path, "CLIP's weights")
    return convert_openai(state, path)


def convert_openai(state: Mapping[str, torch.Tensor], path: str | Path) -> TextTower:
    """OpenAI's state_dict -> the tower. See `read_text_tower`."""
    for name, dimensions in (("token_embedding.weight", 2), ("positional_embedding", 2), ("text_projection", 2)):
        if name not in state or state[name].ndim != dimensions:
            raise InputError(
                f"--clip: {path} has no matrix {name}, so it is not a CLIP model in OpenAI's layout; it holds "
                f"{', '.join(sorted(state)[:4])} ..."
            )
    weights: dict[str, torch.Tensor] = {}
    kept, dropped = [], {}
    for name, tensor in state.items():
        ours = next((m.expand(new) for old, new in _NAMES if (m := re.fullmatch(old, name))), None)
        if ours is None:
            dropped[name] = _IMAGE_TOWER
            continue
        kept.append(name)
        tensor = tensor.float()
        if "{qkv}" in ours:  # queries, keys and values lie on top of each other
            for letter, part in zip("qkv", tensor.chunk(3)):
                weights[ours.replace("{qkv}", letter)] = part.contiguous()
        else:
            weights[ours] = tensor.t().contiguous() if name == "text_projection" else tensor
    foreign = [name for name in dropped if name.startswith(("transformer.", "ln_final", "token_embedding"))]
    if foreign:
        raise InputError(f"--clip: {path} holds unknown tensors of a text tower: {foreign[:4]}.")
    check_finite(state, kept, path)
    vocabulary, width = state["token_embedding.weight"].shape
    layers = {m[1] for m in map(re.compile(r"transformer\.resblocks\.(\d+)\..+").fullmatch, kept) if m}
    inner = weights.get("text_model.encoder.layers.0.mlp.fc1.weight")
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width if inner is None else len(inner),
        num_hidden_layers=len(layers),
        num_attention_heads=max(width // _HEAD_SIZE, 1),
        max_position_embeddings=len(state["positional_embedding"]),
        projection_dim=state["text_projection"].shape[1],
        hidden_act="quick_gelu",
        # OpenAI takes the state at the largest id of the sentence, which is the end token's; transformers looks for
        # the first token with this id. (It must not be 2: transformers reads that as "an old configuration".)
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    _check_complete(config, weights, path)
    return TextTower(config, weights, kept, dropped)


def _check_complete(config: CLIPTextConfig, weights: Mapping[str, torch.Tensor], path) -> None:
    try:
        with torch.device("meta"):
            expected = {name: tuple(t.shape) for name, t in CLIPTextModelWithProjection(config).state_dict().items()}
    except ValueError as error:
        raise InputError(f"--clip: {path}: {error}") from error
    wrong = [name for name, shape in expected.items() if name not in weights or tuple(weights[name].shape) != shape]
    wrong += [name for name in weights if name not in expected]
    if wrong:
        raise InputError(
            f"--clip: {path} is not a complete CLIP text tower: {len(wrong)} tensors are missing or of the wrong "
            f"shape, {', '.join(wrong[:4])} ..."
        )


def _read_folder(path: Path) -> TextTower:
    from ..training.stages.common import quiet_transformers

    with quiet_transformers():
        try:
            tower, info = CLIPTextModelWithProjection.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:
            raise InputError(f"--clip: {path} holds no model that transformers can load: {error}") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        missing = sorted(info["missing_keys"])[:4]
        raise InputError(f"--clip: {path} holds no complete CLIP text tower with projection: {missing} are missing.")
    weights = tower.state_dict()
    dropped = {name: _IMAGE_TOWER for name in info["unexpected_keys"]}
    return TextTower(tower.config, weights, list(weights), dropped)


# ---- tokenizer ------------------------------------------------------------------------------------------------------


def load_tokenizer(source: str | Path, text_config: CLIPTextConfig):
    """CLIP's tokenizer, checked against the tower it is for.

    Args:
        source: A folder or Hub name (`openai/clip-vit-base-patch32`; all of OpenAI's models share it), or the file
            `bpe_simple_vocab_16e6.txt.gz` of OpenAI's code.

    Raises:
        InputError: It cannot be loaded, or its ids are not those of the tower.
    """
    path = Path(source)
    if path.is_file():
        tokenizer = tokenizer_from_merges(path)
    else:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source))
        except Exception as error:  # offline, no such repository, not a tokenizer: all end here with long texts
            raise InputError(
                f"--tokenizer: {source} cannot be loaded ({(str(error).splitlines() or ['?'])[0]}). Give a folder "
                "with tokenizer.json, a name on the Hub such as openai/clip-vit-base-patch32, or OpenAI's "
                "bpe_simple_vocab_16e6.txt.gz."
            ) from error
    if len(tokenizer) != text_config.vocab_size or tokenizer.eos_token_id != text_config.eos_token_id:
        raise InputError(
            f"--tokenizer: {source} knows {len(tokenizer)} tokens and ends a sentence with {tokenizer.eos_token_id}; "
            f"CLIP's has {text_config.vocab_size} and ends with {text_config.eos_token_id}."
        )
    return tokenizer


def tokenizer_from_merges(path: Path) -> CLIPTokenizer:
    """From OpenAI's list of merges: bytes, bytes that end a word, merged pairs in order, begin, end."""
    try:
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
        with opened as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise InputError(f"--tokenizer: {path} is not a list of merges ({error}).") from error
    # The first line is a title; of the rest, CLIP uses as many as its 49408 words leave room for.
    merges = [tuple(line.split()) for line in lines[1 : 1 + 49408 - 2 * 256 - 2] if line.strip()]
    if not merges or any(len(pair) != 2 for pair in merges):
        raise InputError(f"--tokenizer: {path} is not a list of merges: two pieces are expected in every line.")
    # Bytes that print stand for themselves, in their order; the others follow and stand as characters from 256 on.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=merges, model_max_length=77)
