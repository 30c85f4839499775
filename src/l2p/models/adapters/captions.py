"""Owns what families share in their captions: padding and masks, and the ways in which pipelines take them ready."""

# B batch, L caption tokens, D caption width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from l2p.models.adapters.base import Adapter, PromptEmbedding, TextInputs


def pad(embeddings: list[PromptEmbedding], key: str) -> tuple[Tensor, Tensor | None]:
    """Captions [L_i, D] of one batch -> [B, L, D] padded with zeros on the right, and mask [B, L], True at tokens.

    The mask is None when nothing was padded.
    """
    captions = [embedding[key] for embedding in embeddings]
    lengths = torch.tensor([len(caption) for caption in captions], device=captions[0].device)
    padded = nn.utils.rnn.pad_sequence(captions, batch_first=True)
    if int(lengths.min()) == padded.shape[1]:
        return padded, None
    return padded, torch.arange(padded.shape[1], device=lengths.device)[None] < lengths[:, None]


def trimmed(captions_BLD: Tensor, masks_BL: Tensor) -> list[PromptEmbedding]:
    """Each caption without the tokens that its mask hides."""
    return [{"prompt_embeds": caption[mask.bool()]} for caption, mask in zip(captions_BLD, masks_BL, strict=True)]


class PooledCaptions(Adapter):
    """Captions of one length, and a pooled vector of each prompt."""

    def pipeline_inputs(self, embeddings: list[PromptEmbedding], negative: list[PromptEmbedding]) -> dict[str, Any]:
        """Captions and pooled vectors."""
        text, empty = self.collate(embeddings), self.collate(negative)
        own = {"prompt_embeds": text["prompt_embeds"], "pooled_prompt_embeds": text["pooled"]}
        return own | {
            "negative_prompt_embeds": empty["prompt_embeds"],
            "negative_pooled_prompt_embeds": empty["pooled"],
        }


class MaskedCaptions(Adapter):
    """Captions of any length under a mask that the transformer insists on, even where it hides nothing."""

    def collate(self, embeddings: list[PromptEmbedding]) -> TextInputs:
        """Padded, always with a mask."""
        captions_BLD, mask_BL = pad(embeddings, "prompt_embeds")
        if mask_BL is None:
            mask_BL = torch.ones(captions_BLD.shape[:2], dtype=torch.bool, device=captions_BLD.device)
        return {"prompt_embeds": captions_BLD, "mask": mask_BL}

    def pipeline_inputs(self, embeddings: list[PromptEmbedding], negative: list[PromptEmbedding]) -> dict[str, Any]:
        """Captions and masks of one length, because pipelines join them or check that they agree."""
        text, count = self.collate([*embeddings, *negative]), len(embeddings)
        captions, masks = text["prompt_embeds"], text["mask"]
        own = {"prompt_embeds": captions[:count], "prompt_attention_mask": masks[:count]}
        return own | {"negative_prompt_embeds": captions[count:], "negative_prompt_attention_mask": masks[count:]}
