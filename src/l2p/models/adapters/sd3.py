"""Owns what is particular to Stable Diffusion 3: a position table that is cropped, joined CLIP and T5 captions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2p.models.adapters.base import Config, PromptEmbedding, TextInputs
from l2p.models.adapters.captions import PooledCaptions

TIME_SCALE = 1000  # the transformer counts time from 0 to 1000


class SD3Adapter(PooledCaptions):
    """Stable Diffusion 3 and 3.5 (medium, large)."""

    transformer_class = "SD3Transformer2DModel"
    pipeline_class = "StableDiffusion3Pipeline"
    embedder = "pos_embed.proj"
    # the last block's captions are keys and values only
    unused = ("transformer_blocks.{last}.attn.add_q_proj.", "transformer_blocks.{last}.attn.norm_added_q.")

    def max_grid(self, config: Config) -> int:
        """Side of the position table, of which the centre is used."""
        return int(config["pos_embed_max_size"])

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Time is 1000 sigma."""
        return {
            "hidden_states": patches_BChw,
            "timestep": sigma_B * TIME_SCALE,
            "encoder_hidden_states": text["prompt_embeds"],
            "pooled_projections": text["pooled"],
        }

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """CLIP and T5 one after the other, [77 + 256, 4096], and the pooled vectors of both CLIPs [1, 2048]."""
        with torch.no_grad():
            captions, _, pooled, _ = pipeline.encode_prompt(
                list(prompts), None, None, do_classifier_free_guidance=False
            )
        return [{"prompt_embeds": t, "pooled": p[None]} for t, p in zip(captions, pooled, strict=True)]
