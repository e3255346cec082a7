"""A tokenizer of its own for a small model: learned from the instructions it will be given."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ...errors import InputError


def train_tokenizer(sentences: Sequence[str], vocab_size: int = 512, max_length: int = 24) -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer learned from instructions; lower-cases, knows every byte, adds bos, eos.

    Args:
        sentences: The instructions (and paraphrases) to learn merges from.
        vocab_size: At most this many tokens: 3 special ones, 256 bytes, the rest merges; at least 259.
        max_length: `model_max_length` of the tokenizer, in tokens.

    Returns:
        A tokenizer with ids 0 (pad), 1 (eos) and 2 (bos); pass `eos_token_id` and the others to `CLIPTextConfig`. eos
        is not 2: CLIP's text tower reads `eos_token_id == 2` as "an old checkpoint: the end token is the largest id".
    """
    sentences = list(sentences)
    if not sentences:
        raise InputError("sentences: at least one instruction is needed to learn a tokenizer.")
    if vocab_size < 259:
        raise InputError(f"vocab_size: 256 bytes and 3 special tokens need at least 259, got {vocab_size}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Strip(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<eos>", "<bos>"],  # eos must not be 2, see above
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    ids = {token: tokenizer.token_to_id(token) for token in ("<pad>", "<eos>", "<bos>")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(token, ids[token]) for token in ("<bos>", "<eos>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=max_length,
        padding_side="right",
    )
