"""Owns what is particular to Qwen-Image: packed tokens, positions from the image's shape, rescaled guidance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2p.errors import SourceError
from l2p.models.adapters.base import Adapter, Config, PromptEmbedding, TextInputs
from l2p.models.adapters.captions import pad, trimmed

MAX_CAPTION_TOKENS = 512  # of the pipeline's call; its encode_prompt alone would take twice as many
_VARIANTS = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")


class QwenImageAdapter(Adapter):
    """Qwen-Image (Qwen2.5-VL captions, double-stream transformer)."""

    transformer_class = "QwenImageTransformer2DModel"
    pipeline_class = "QwenImagePipeline"
    embedder = "img_in"
    packed = True
    guidance_argument = "true_cfg_scale"
    rescales_guidance = True
    # of the last block's text stream only the keys and values are read
    unused = tuple(
        f"transformer_blocks.{{last}}.{name}"
        for name in ("attn.to_add_out.", "attn.norm_added_q.", "attn.add_q_proj.", "txt_mlp.")
    )

    def check_source(self, config: Config) -> None:
        """Editing and layered variants share the class, not the way it is called."""
        if found := [name for name in _VARIANTS if config.get(name)]:
            raise SourceError(
                f"QwenImageTransformer2DModel with {found[0]} = true is an editing or layered variant; only the "
                "text-to-image model is supported."
            )

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Time is sigma."""
        return {
            "hidden_states": patches_BChw.flatten(2).transpose(1, 2),
            "timestep": sigma_B,
            "encoder_hidden_states": text["prompt_embeds"],
            "encoder_hidden_states_mask": text["mask"],
            "img_shapes": [[(1, *patches_BChw.shape[-2:])]] * len(patches_BChw),
        }

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """Last hidden states of the templated prompt without the template's beginning, [L, 3584]."""
        with torch.no_grad():
            captions, masks = pipeline.encode_prompt(list(prompts), max_sequence_length=MAX_CAPTION_TOKENS)
        if masks is None:  # the pipeline leaves out a mask that hides nothing
            return [{"prompt_embeds": caption} for caption in captions]
        return trimmed(captions, masks)

    def collate(self, embeddings: list[PromptEmbedding]) -> TextInputs:
        """Padded, with a mask where lengths differ."""
        captions_BLD, mask_BL = pad(embeddings, "prompt_embeds")
        return {"prompt_embeds": captions_BLD, "mask": mask_BL}

    def pipeline_inputs(self, embeddings: list[PromptEmbedding], negative: list[PromptEmbedding]) -> dict[str, Any]:
        """Captions and masks."""
        text, empty = self.collate(embeddings), self.collate(negative)
        own = {"prompt_embeds": text["prompt_embeds"], "prompt_embeds_mask": text["mask"]}
        return own | {
            "negative_prompt_embeds": empty["prompt_embeds"],
            "negative_prompt_embeds_mask": empty["mask"],
        }
