"""Owns what every source family must say of itself so that its own diffusers class can be rebuilt over pixels.

The patch-1 graft: the class is built with patch 1, 3*P*P input channels and an output as wide as its tokens, and its
final layer is replaced by `Passthrough`; then its own patchify, position code and unpatchify return the token map.
"""

# B batch, D token width, h w token grid, P patch side, L caption tokens

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PromptEmbedding = dict[str, Tensor]
TextInputs = dict[str, Any]


class Passthrough(nn.Module):
    """Stands in for a final layer: returns its first argument, whatever else it is called with."""

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Identity on the first argument."""
        return x


class Adapter:
    """One source family. Subclasses fill in the names and override what differs."""

    transformer_class: str
    pipeline_class: str
    embedder: str  # dotted name of the patch embedder in the grafted transformer: new, trained
    source_embedder: str  # its name in the source
    tail: tuple[str, ...]  # modules of the grafted transformer replaced by Passthrough
    image_blocks: tuple[str, ...]  # block lists that image tokens pass, in order; their ends are trained
    refiners: tuple[str, ...] = ()  # further trained modules when refiners are trained
    pad_tokens: tuple[str, ...] = ()  # learned padding, trained with the ends
    native_patch_px: int = 16  # VAE stride x latent patch: the patch at which the token grid is unchanged

    def token_dim(self, config: dict[str, Any]) -> int:
        """Width of an image token."""
        raise NotImplementedError

    def overrides(self, config: dict[str, Any], in_channels: int) -> dict[str, Any]:
        """Changes to the source's config that make it a patch-1 model over `in_channels` channels."""
        raise NotImplementedError

    def graft(self, transformer: nn.Module, dim: int) -> None:
        """Replace the final layer by Passthrough, in place."""
        for name in self.tail:
            transformer.set_submodule(name, Passthrough())

    def prepare_training(self, transformer: nn.Module) -> None:
        """Swap in what trains or compiles faster and computes the same, in place; nothing by default."""

    def source_tail(self, config: dict[str, Any]) -> tuple[str, ...]:
        """Names of the source's own tail, which the graft leaves behind."""
        return self.tail

    def call(self, transformer: nn.Module, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs) -> Tensor:
        """Run the grafted transformer over [B, 3PP, h, w] at `sigma_B` (1 = noise); token map [B, D, h, w]."""
        raise NotImplementedError

    def latent_tokens(self, latents_BChw: Tensor, config: Any) -> Tensor:
        """Normalised latents [B, C, h, w] -> what the source's own embedder takes, [B, tokens, K]."""
        raise NotImplementedError

    def source_embedding(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Weight [D, K] and bias [D] of the source's own embedder."""
        raise NotImplementedError

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """Prompt embeddings by the source pipeline's own `encode_prompt`, one dictionary a prompt."""
        raise NotImplementedError

    def collate(self, embeddings: list[PromptEmbedding]) -> TextInputs:
        """Embeddings of one batch -> the `text` argument of the pixel model."""
        raise NotImplementedError

    def pipeline_inputs(self, embeddings: list[PromptEmbedding], negative: list[PromptEmbedding]) -> dict[str, Any]:
        """Keyword arguments by which the source's own pipeline takes ready embeddings instead of prompts."""
        raise NotImplementedError


def to_device(embedding: PromptEmbedding, device: torch.device, dtype: torch.dtype) -> PromptEmbedding:
    """Move floating tensors of one embedding to `device` and `dtype`."""
    return {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in embedding.items()}
