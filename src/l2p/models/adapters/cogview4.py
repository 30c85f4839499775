"""Owns what is particular to CogView4: captions padded to multiples of 16, sizes as a condition, unshifted time.

Its pipeline shifts the noise levels with the number of tokens, and tells the transformer the time before that shift.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from l2p.diffusion.timesteps import unshift_sigma
from l2p.errors import SourceError
from l2p.models.adapters.base import Adapter, Config, PromptEmbedding, TextInputs, shift_settings
from l2p.models.adapters.captions import pad
from l2p.models.adapters.cogview4_attention import MaskedAttention

TIME_SCALE = 1000  # the transformer counts time from 0 to 1000
# Of the published scheduler; `_shift` says what they mean.
SHIFT: dict[str, Any] = {"base_image_seq_len": 256, "base_shift": 0.25, "max_shift": 0.75, "time_shift_type": "linear"}


class CogView4Adapter(Adapter):
    """CogView4-6B (GLM-4 captions)."""

    transformer_class = "CogView4Transformer2DModel"
    pipeline_class = "CogView4Pipeline"
    embedder = "patch_embed.proj"

    def check_scheduler(self, config: Config) -> None:
        """The transformer's time follows from the noise level by this shift alone."""
        if not config.get("use_dynamic_shifting") or any(config.get(key) != value for key, value in SHIFT.items()):
            raise SourceError(
                f"scheduler of a CogView4 source: expected use_dynamic_shifting with {SHIFT}, from which its "
                "transformer's time follows; this one has other settings and is not supported."
            )

    def dynamic_shift(self, scheduler: Config, tokens: int, num_steps: int) -> float:
        """The pipeline's own square root; the transformer is told the time before this shift."""
        return _shift(scheduler, tokens)

    def graft(self, transformer: nn.Module, dim: int) -> None:
        """With an attention that hides padding; the class's own adds its mask to the scores."""
        super().graft(transformer, dim)
        for block in transformer.get_submodule("transformer_blocks").children():
            attention: Any = block.get_submodule("attn1")
            attention.set_processor(MaskedAttention())

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Time is 1000 times the unshifted sigma; sizes are those that the source's tokens would have, in pixels."""
        height, width = patches_BChw.shape[-2:]
        size_2 = [self.native_patch_px * height, self.native_patch_px * width]
        sizes_B2 = patches_BChw.new_tensor([size_2] * len(patches_BChw))
        return {
            "hidden_states": patches_BChw,
            "timestep": unshift_sigma(sigma_B, _shift(SHIFT, height * width)) * TIME_SCALE,
            "encoder_hidden_states": text["prompt_embeds"],
            "original_size": sizes_B2,
            "target_size": sizes_B2,
            "crop_coords": torch.zeros_like(sizes_B2),
            "attention_mask": text["mask"],
        }

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """GLM's `hidden_states[-2]`, [L, 4096], L a multiple of 16; one by one, because the padding is not masked."""
        with torch.no_grad():
            return [{"prompt_embeds": pipeline.encode_prompt([p], None, False)[0][0]} for p in prompts]

    def collate(self, embeddings: list[PromptEmbedding]) -> TextInputs:
        """Padded, with a mask where lengths differ."""
        captions_BLD, mask_BL = pad(embeddings, "prompt_embeds")
        return {"prompt_embeds": captions_BLD, "mask": mask_BL}

    def pipeline_inputs(self, embeddings: list[PromptEmbedding], negative: list[PromptEmbedding]) -> dict[str, Any]:
        """Captions; the pipeline knows no mask."""
        return {
            "prompt_embeds": self.collate(embeddings)["prompt_embeds"],
            "negative_prompt_embeds": self.collate(negative)["prompt_embeds"],
        }


def _shift(scheduler: Config, tokens: int) -> float:
    """Shift of sigma for an image of so many tokens: the `calculate_shift` of CogView4's own pipeline."""
    few, low, high = shift_settings(scheduler, "base_image_seq_len", "base_shift", "max_shift")
    return high * math.sqrt(tokens / few) + low
