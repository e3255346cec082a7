"""Random changes of what the model sees: colours of the pixels, wording of the instruction."""

import torch


def color_jitter(pixels: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Random brightness, contrast and colour balance, one draw per sample (all its views and frames alike).

    Args:
        pixels: (B, ..., 3, H, W) in [-0.5, 0.5].
        strength: relative range; contrast and each colour channel are scaled by 1 +- strength, and brightness moves by
            up to strength / 2. 0 returns `pixels` itself.
    """
    if not strength:
        return pixels
    batch, spread = len(pixels), (1,) * (pixels.ndim - 4)
    draw = torch.rand((batch, 5), generator=generator, device=pixels.device, dtype=torch.float32) * 2 - 1
    scale = ((1 + strength * draw[:, 0:1]) * (1 + 0.5 * strength * draw[:, 1:4])).view(batch, *spread, 3, 1, 1)
    shift = (0.5 * strength * draw[:, 4]).view(batch, *spread, 1, 1, 1)
    mean = pixels.mean(dim=(-3, -2, -1), keepdim=True)
    return ((pixels - mean) * scale + mean + shift).clamp(-0.5, 0.5)


class InstructionSampler:
    """Token ids of each sample's instruction, or of one of its paraphrases.

    Args:
        sentences: per task, the instruction first, then its training paraphrases.
        tokenize: list of sentences -> dict of input_ids and attention_mask, int64 (N, L), padded alike.
        paraphrase_prob: share of samples that get a paraphrase (tasks without any keep their instruction).
    """

    def __init__(self, sentences: list[list[str]], tokenize, paraphrase_prob: float = 0.0):
        flat = [s for group in sentences for s in group]
        tokens = tokenize(flat)
        self.input_ids, self.attention_mask = tokens["input_ids"], tokens["attention_mask"]
        counts = torch.tensor([len(group) for group in sentences])
        self.first = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)[:-1]))
        self.paraphrases = counts - 1
        self.paraphrase_prob = paraphrase_prob

    def __call__(self, task_index: torch.Tensor, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """int64 (B,) task indices -> input_ids, attention_mask (B, L) on the device of `task_index`.

        Without a generator every sample gets its instruction as it stands in the dataset.
        """
        device = task_index.device
        if self.first.device != device:
            self.first, self.paraphrases = self.first.to(device), self.paraphrases.to(device)
            self.input_ids, self.attention_mask = self.input_ids.to(device), self.attention_mask.to(device)
        rows = self.first[task_index]
        if generator is not None and self.paraphrase_prob > 0:
            draw = torch.rand((2, len(task_index)), generator=generator, device=device)
            count = self.paraphrases[task_index]
            which = 1 + (draw[1] * count).long().clamp(max=count - 1)
            rows = rows + torch.where((draw[0] < self.paraphrase_prob) & (count > 0), which, 0)
        return {"input_ids": self.input_ids[rows], "attention_mask": self.attention_mask[rows]}
