"""Owns what is particular to Chroma: FLUX.1's tokens with masked captions, whose mask diffusers does not apply.

Two faults of diffusers 0.42 are worked around. Its pipeline makes the mask a float, which scaled dot-product attention
adds to the scores instead of hiding anything: here it is boolean, in the pixel model and for the source's own pipeline.
And its gradient checkpointing drops the mask in the single-stream blocks: here blocks are checkpointed from outside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from l2p.models.adapters.base import Config, PromptEmbedding, TextInputs, grid_positions
from l2p.models.adapters.captions import MaskedCaptions, trimmed

POSITION_AXES = 3  # (0, row, column)


class ChromaAdapter(MaskedCaptions):
    """Chroma1 (T5 captions, modulation from one small network)."""

    transformer_class = "ChromaTransformer2DModel"
    pipeline_class = "ChromaPipeline"
    image_blocks = ("transformer_blocks", "single_transformer_blocks")
    packed = True

    def enable_checkpointing(self, transformer: Any) -> None:
        """Each block on its own, with all of its arguments."""
        for name in self.image_blocks:
            for block in transformer.get_submodule(name).children():
                block.forward = functools.partial(_checkpointed, block.forward)

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Time is sigma; text has no position; the mask covers caption and image."""
        captions_BLD, image_BNK = text["prompt_embeds"], patches_BChw.flatten(2).transpose(1, 2)
        image_mask = torch.ones(image_BNK.shape[:2], dtype=torch.bool, device=image_BNK.device)
        return {
            "hidden_states": image_BNK,
            "timestep": sigma_B,
            "encoder_hidden_states": captions_BLD,
            "txt_ids": torch.zeros(captions_BLD.shape[1], POSITION_AXES, device=patches_BChw.device),
            "img_ids": grid_positions(patches_BChw, axes=POSITION_AXES),
            "attention_mask": torch.cat([text["mask"], image_mask], 1),
        }

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """T5 up to the first padding token, which the model was trained to see, [L, 4096]."""
        with torch.no_grad():
            captions, _, masks, *_ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return trimmed(captions, masks)


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
