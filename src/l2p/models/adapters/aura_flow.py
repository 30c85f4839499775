"""Owns what is particular to AuraFlow: a learned position table that is cropped, captions zeroed beyond their end."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from l2p.models.adapters.base import Adapter, Config, PromptEmbedding, TextInputs
from l2p.models.adapters.captions import trimmed

CAPTION_TOKENS = 256  # of the pipeline; the transformer has no mask and attends to the zeros behind a caption


class AuraFlowAdapter(Adapter):
    """AuraFlow (UMT5 captions, double- and single-stream blocks)."""

    transformer_class = "AuraFlowTransformer2DModel"
    pipeline_class = "AuraFlowPipeline"
    embedder = "pos_embed.proj"
    image_blocks = ("joint_transformer_blocks", "single_transformer_blocks")

    def max_grid(self, config: Config) -> int:
        """Side of the position table, of which the centre is used; beyond it indices would wrap silently."""
        return math.isqrt(config["pos_embed_max_size"])

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Time is sigma."""
        return {"hidden_states": patches_BChw, "timestep": sigma_B, "encoder_hidden_states": text["prompt_embeds"]}

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """T5 without the zeros behind the caption, [L, 2048]."""
        with torch.no_grad():
            captions, masks, *_ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        masks = masks.unflatten(1, captions.shape[1:])[..., 0]  # the pipeline repeats it over the width
        return trimmed(captions, masks)

    def collate(self, embeddings: list[PromptEmbedding]) -> TextInputs:
        """With the zeros again."""
        captions = [embedding["prompt_embeds"] for embedding in embeddings]
        return {"prompt_embeds": torch.stack([F.pad(c, (0, 0, 0, CAPTION_TOKENS - len(c))) for c in captions])}

    def pipeline_inputs(self, embeddings: list[PromptEmbedding], negative: list[PromptEmbedding]) -> dict[str, Any]:
        """The masks are asked for and not used."""
        text, empty = self.collate(embeddings)["prompt_embeds"], self.collate(negative)["prompt_embeds"]
        masks = {"prompt_attention_mask": text.any(-1), "negative_prompt_attention_mask": empty.any(-1)}
        return {"prompt_embeds": text, "negative_prompt_embeds": empty, **masks}
