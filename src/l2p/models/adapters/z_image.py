"""Owns what is particular to Z-Image: ragged captions, model time 1 - sigma, lists of images with a frame axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l2p.models.adapters.base import Adapter, Config, PromptEmbedding, TextInputs
from l2p.models.adapters.z_image_attention import RealRotaryAttention

MAX_CAPTION_TOKENS = 512  # what the pipeline truncates to


class ZImageAdapter(Adapter):
    """Z-Image and Z-Image-Turbo (Qwen3 captions, single-stream transformer with refiners)."""

    transformer_class = "ZImageTransformer2DModel"
    pipeline_class = "ZImagePipeline"
    embedder = "all_x_embedder.1-1"
    source_embedder = "all_x_embedder"
    tail = ("all_final_layer.1-1",)
    image_blocks = ("layers",)
    refiners = ("noise_refiner", "context_refiner", "cap_embedder", "t_embedder")
    pad_tokens = ("x_pad_token", "cap_pad_token")
    token_layout = "channels last"
    guidance_form = "g"

    def token_dim(self, config: Config) -> int:
        """`dim` of the config."""
        return int(config["dim"])

    def overrides(self, config: Config, in_channels: int) -> dict[str, Any]:
        """Patch 1 over `in_channels`."""
        return {"all_patch_size": (1,), "all_f_patch_size": (1,), "in_channels": in_channels}

    def max_grid(self, config: Config) -> int:
        """Rows and columns have tables of their own; the first axis counts caption tokens."""
        return int(min(config["axes_lens"][1:]))

    def graft(self, transformer: nn.Module, dim: int) -> None:
        """Also tell the class its output width: unpatchify reads the attribute, not the config."""
        super().graft(transformer, dim)
        setattr(transformer, "out_channels", dim)  # noqa: B010 (nn.Module declares its attributes as tensors)

    def left_behind(self, name: str) -> bool:
        """All embedders and final layers of the source, whatever their patch sizes."""
        return name.startswith(("all_x_embedder.", "all_final_layer."))

    def prepare_training(self, transformer: nn.Module) -> None:
        """Attention that torch.compile takes whole."""
        for name in ("noise_refiner", "context_refiner", "layers"):
            for block in transformer.get_submodule(name).children():
                attention: Any = block.get_submodule("attention")
                attention.processor = RealRotaryAttention()

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Z-Image takes time 1 - sigma and lists of [C, 1, h, w]."""
        images = list(patches_BChw.unsqueeze(2).unbind(0))
        return {"x": images, "t": 1 - sigma_B, "cap_feats": text["cap_feats"], "patch_size": 1, "f_patch_size": 1}

    def token_map(self, out: list[Tensor], grid: torch.Size) -> Tensor:
        """A list again, with the frame axis."""
        return torch.stack(list(out)).squeeze(2)

    def latent_patch(self, config: Config) -> int:
        """The first of those that the source was trained with."""
        return int(config["all_patch_size"][0])

    def source_embedding(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Of the first patch size that the source was trained with."""
        name = min(name for name in tensors if name.startswith("all_x_embedder.") and name.endswith(".weight"))
        return tensors[name], tensors[name.removesuffix("weight") + "bias"]

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """Qwen3 `hidden_states[-2]` of the chat-templated prompt, [L, D] each, padded no longer than the batch needs.

        The pipeline always pads to 512 tokens; attention is causal and padding is on the right, so a shorter padding
        gives the same embeddings and costs a fraction.
        """
        longest = _longest(pipeline.tokenizer, prompts)
        with torch.no_grad():
            features, _ = pipeline.encode_prompt(
                list(prompts), do_classifier_free_guidance=False, max_sequence_length=longest
            )
        return [{"cap_feats": feature} for feature in features]

    def collate(self, embeddings: list[PromptEmbedding]) -> TextInputs:
        """Ragged: a list."""
        return {"cap_feats": [embedding["cap_feats"] for embedding in embeddings]}

    def pipeline_inputs(self, embeddings: list[PromptEmbedding], negative: list[PromptEmbedding]) -> dict[str, Any]:
        """Lists of [L, D]."""
        return {
            "prompt_embeds": [embedding["cap_feats"] for embedding in embeddings],
            "negative_prompt_embeds": [embedding["cap_feats"] for embedding in negative],
        }


def _longest(tokenizer: Any, prompts: list[str]) -> int:
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        for prompt in prompts
    ]
    return min(MAX_CAPTION_TOKENS, max(len(ids) for ids in tokenizer(chats).input_ids))
