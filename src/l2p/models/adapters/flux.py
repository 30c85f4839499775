"""Owns what is particular to FLUX.1: packed tokens, position ids from the pipeline, T5 and a pooled CLIP vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2p.models.adapters.base import Config, Guidance, PromptEmbedding, TextInputs, grid_positions
from l2p.models.adapters.captions import PooledCaptions

POSITION_AXES = 3  # (0, row, column)


class FluxAdapter(PooledCaptions):
    """FLUX.1-dev (guidance-distilled) and FLUX.1-schnell."""

    transformer_class = "FluxTransformer2DModel"
    pipeline_class = "FluxPipeline"
    image_blocks = ("transformer_blocks", "single_transformer_blocks")
    packed = True

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Time is sigma; text has no position."""
        captions_BLD = text["prompt_embeds"]
        return {
            "hidden_states": patches_BChw.flatten(2).transpose(1, 2),
            "timestep": sigma_B,
            "guidance": guidance_B,
            "encoder_hidden_states": captions_BLD,
            "pooled_projections": text["pooled"],
            "txt_ids": torch.zeros(captions_BLD.shape[1], POSITION_AXES, device=patches_BChw.device),
            "img_ids": grid_positions(patches_BChw, axes=POSITION_AXES),
        }

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """T5 [512, 4096] with its padding, which the source attends to, and CLIP's pooled vector [1, 768]."""
        with torch.no_grad():
            captions, pooled, _ = pipeline.encode_prompt(list(prompts), None)
        return [{"prompt_embeds": t, "pooled": p[None]} for t, p in zip(captions, pooled, strict=True)]

    def guidance(self, scale: float, config: Config, *, true_cfg_scale: float = 1.0) -> Guidance:
        """`guidance_scale` is what the distilled model is told; FLUX.1-schnell has no input for it and ignores it."""
        return Guidance(max(true_cfg_scale - 1, 0.0), scale if config["guidance_embeds"] else None)
