"""Owns what is particular to Lumina 2: model time 1 - sigma, and a system prompt that only positive prompts get."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2p.models.adapters.base import Config, PromptEmbedding, TextInputs
from l2p.models.adapters.captions import MaskedCaptions, trimmed


class Lumina2Adapter(MaskedCaptions):
    """Lumina-Image 2.0 (Gemma 2 captions, single-stream transformer with refiners)."""

    transformer_class = "Lumina2Transformer2DModel"
    pipeline_class = "Lumina2Pipeline"
    tail = ("norm_out",)
    image_blocks = ("layers",)
    refiners = ("noise_refiner", "context_refiner", "time_caption_embed")
    token_layout = "channels last"
    rescales_guidance = True

    def token_dim(self, config: Config) -> int:
        """`hidden_size` of the config."""
        return int(config["hidden_size"])

    def max_grid(self, config: Config) -> int:
        """Rows and columns have tables of their own; the first axis counts caption tokens."""
        return int(min(config["axes_lens"][1:]))

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Time is 1 - sigma."""
        return {
            "hidden_states": patches_BChw,
            "timestep": 1 - sigma_B,
            "encoder_hidden_states": text["prompt_embeds"],
            "encoder_attention_mask": text["mask"],
        }

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """Gemma's `hidden_states[-2]`, [L, 2304]; the empty prompt as the pipeline encodes a negative one."""
        with torch.no_grad():
            positive = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)[:2]
            negative = pipeline.encode_prompt([""], do_classifier_free_guidance=True, negative_prompt=[""])[2:]
        empty = trimmed(*negative)[0]
        return [found if prompt else empty for prompt, found in zip(prompts, trimmed(*positive), strict=True)]

    def encode_negative(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """Without the system prompt."""
        with torch.no_grad():
            return trimmed(*pipeline.encode_prompt(list(prompts), True, list(prompts))[2:])
