"""Owns what is particular to Sana: 32-pixel tokens, scaled time, and an instruction that only positive prompts get."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from l2p.errors import SourceError
from l2p.models.adapters.base import Config, PromptEmbedding, TextInputs
from l2p.models.adapters.captions import MaskedCaptions, trimmed

TIME_SCALE = 1000  # the pipeline counts time from 0 to 1000, and scales it again by the config


class SanaAdapter(MaskedCaptions):
    """Sana (Gemma 2 captions, linear attention)."""

    transformer_class = "SanaTransformer2DModel"
    pipeline_class = "SanaPipeline"
    embedder = "patch_embed.proj"
    native_patch_px = 32
    refiners = ("caption_projection", "caption_norm")

    def check_source(self, config: Config) -> None:
        """Sana-Sprint has a trigonometric path instead of the straight one."""
        if config.get("guidance_embeds"):
            raise SourceError(
                "SanaTransformer2DModel with guidance_embeds = true is Sana-Sprint, whose noise path is trigonometric; "
                "only flow-matching Sana models are supported."
            )

    def left_behind(self, name: str) -> bool:
        """The final layer also has a table of its own."""
        return name == "scale_shift_table" or super().left_behind(name)

    def graft(self, transformer: torch.nn.Module, dim: int) -> None:
        """Without that table, which the final layer alone reads."""
        super().graft(transformer, dim)
        transformer.scale_shift_table = None  # type: ignore[assignment]

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Time is 1000 sigma times the config's scale, which the pipeline applies."""
        return {
            "hidden_states": patches_BChw,
            "timestep": sigma_B * TIME_SCALE * config["timestep_scale"],
            "encoder_hidden_states": text["prompt_embeds"],
            "encoder_attention_mask": text["mask"],
        }

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """Gemma's last layer after the pipeline's instruction, [L, 2304]; the empty prompt without it, as negatives."""
        instruction = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
        with torch.no_grad():
            positive = pipeline.encode_prompt(
                list(prompts), do_classifier_free_guidance=False, complex_human_instruction=instruction
            )[:2]
        (empty,) = self.encode_negative(pipeline, [""])
        return [found if prompt else empty for prompt, found in zip(prompts, trimmed(*positive), strict=True)]

    def encode_negative(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """Without the instruction."""
        with torch.no_grad():
            return trimmed(*pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)[:2])

    def pipeline_inputs(self, embeddings: list[PromptEmbedding], negative: list[PromptEmbedding]) -> dict[str, Any]:
        """Sizes as they are asked for, and no other negative prompt."""
        own = super().pipeline_inputs(embeddings, negative)
        return own | {"negative_prompt": None, "use_resolution_binning": False}
