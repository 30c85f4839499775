"""Owns what is particular to FLUX.2: four position axes, the last for text, and captions of a Mistral model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2p.errors import SourceError
from l2p.models.adapters.base import Adapter, Config, PromptEmbedding, TextInputs, grid_positions

POSITION_AXES = 4  # (frame, row, column, caption token)


class Flux2Adapter(Adapter):
    """FLUX.2-dev (guidance-distilled)."""

    transformer_class = "Flux2Transformer2DModel"
    pipeline_class = "Flux2Pipeline"
    image_blocks = ("transformer_blocks", "single_transformer_blocks")
    packed = True
    embedded_guidance = 4.0

    def check_source(self, config: Config) -> None:
        """Only the guidance-distilled model has this pipeline and these captions."""
        if not config.get("guidance_embeds", True):
            raise SourceError(
                "Flux2Transformer2DModel with guidance_embeds = false (FLUX.2 klein) has other captions and another "
                "pipeline than FLUX.2-dev, and is not supported."
            )

    def dynamic_shift(self, scheduler: Config, tokens: int, num_steps: int) -> float:
        """The pipeline's own fit over image sizes and steps, which reads nothing of the scheduler."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return float(compute_empirical_mu(tokens, num_steps))

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Time is sigma."""
        captions_BLD, count = text["prompt_embeds"], len(patches_BChw)
        text_ids = torch.zeros(captions_BLD.shape[1], POSITION_AXES, device=patches_BChw.device)
        text_ids[:, -1] = torch.arange(len(text_ids), device=text_ids.device)
        return {
            "hidden_states": patches_BChw.flatten(2).transpose(1, 2),
            "timestep": sigma_B,
            "guidance": guidance_B,
            "encoder_hidden_states": captions_BLD,
            "txt_ids": text_ids.expand(count, -1, -1),
            "img_ids": grid_positions(patches_BChw, axes=POSITION_AXES).expand(count, -1, -1),
        }

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """Three joined layers of Mistral, [512, 15360] with its padding, which the source attends to."""
        with torch.no_grad():
            captions, _ = pipeline.encode_prompt(list(prompts))
        return [{"prompt_embeds": caption} for caption in captions]

    def pipeline_inputs(self, embeddings: list[PromptEmbedding], negative: list[PromptEmbedding]) -> dict[str, Any]:
        """The pipeline knows no negative prompt."""
        return {"prompt_embeds": self.collate(embeddings)["prompt_embeds"]}
