"""Owns a batched forward pass of ZImageTransformer2DModel for images of one size and captions of at most 32 tokens.

It computes what the diffusers class computes (a test holds them equal) without its per-sample lists and with plain
matrix-product attention, whose backward is several times faster on a CPU at 64 tokens. Only the recipe uses it.
"""

# B batch, N image tokens, M unified tokens (image, padding, caption), D width, P patch side

from __future__ import annotations

from typing import Any

import torch
from diffusers import ZImageTransformer2DModel

from l2p.shapes.recipe.text import MAX_CAPTION_TOKENS

PAD_MULTIPLE = 32
Rotary = tuple[torch.Tensor, torch.Tensor]


class MatmulAttention:
    """Attention processor: QK norm, rotary embedding and a plain softmax(QK^T)V, no mask."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        freqs_cis: Any = None,
    ) -> torch.Tensor:
        """Signature of a diffusers attention processor; `freqs_cis` is (cos, sin), each [1, M, 1, head_dim / 2]."""
        q, k, v = (to(hidden_states).unflatten(-1, (attn.heads, -1)) for to in (attn.to_q, attn.to_k, attn.to_v))
        q = _rotate(attn.norm_q(q), freqs_cis).to(v.dtype).transpose(1, 2)
        k = _rotate(attn.norm_k(k), freqs_cis).to(v.dtype).transpose(1, 2)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
        return attn.to_out[0]((weights @ v.transpose(1, 2)).transpose(1, 2).flatten(2))


class BatchedForward:
    """Runs `model` over latents [B, C, H, W], model time [B], captions [B, 32, D'] and their mask [B, 32]."""

    def __init__(self, model: ZImageTransformer2DModel, height: int, width: int) -> None:
        self.model = model
        self.patch = model.config["all_patch_size"][0]
        self.grid = (height // self.patch, width // self.patch)
        for block in [*model.noise_refiner, *model.context_refiner, *model.layers]:
            block.attention.processor = MatmulAttention()
        self.image_rotary, self.caption_rotary = _rotary_tables(model, self.grid)
        pairs = zip(self.image_rotary, self.caption_rotary, strict=True)
        self.unified_rotary = tuple(torch.cat(pair, 1) for pair in pairs)

    def __call__(
        self, latents: torch.Tensor, time: torch.Tensor, captions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Returns the model's own output, x0 - eps, [B, C, H, W]."""
        model, key = self.model, f"{self.patch}-1"
        modulation = model.t_embedder(time * model.t_scale)
        tokens = model.all_x_embedder[key](_patchify(latents, self.patch))
        count = tokens.shape[1]
        padding = model.x_pad_token.to(tokens.dtype).expand(len(tokens), -count % PAD_MULTIPLE, -1)
        tokens = torch.cat([tokens, padding], 1)
        for block in model.noise_refiner:
            tokens = block(tokens, None, self.image_rotary, modulation)
        text = model.cap_embedder(captions)
        text = torch.where(mask[..., None], text, model.cap_pad_token.to(text.dtype))
        for block in model.context_refiner:
            text = block(text, None, self.caption_rotary)
        unified = torch.cat([tokens, text.to(tokens.dtype)], 1)
        for block in model.layers:
            unified = block(unified, None, self.unified_rotary, modulation)
        out = model.all_final_layer[key](unified[:, :count], c=modulation)
        return _unpatchify(out, self.patch, self.grid)


def _rotary_tables(model: ZImageTransformer2DModel, grid: tuple[int, int]) -> tuple[Rotary, Rotary]:
    """Rotary tables of the image tokens (padding included) and of the caption tokens; layout as in diffusers."""
    rows, columns = grid
    image = [[MAX_CAPTION_TOKENS + 1, y, x] for y in range(rows) for x in range(columns)]
    image += [[0, 0, 0]] * (-len(image) % PAD_MULTIPLE)
    caption = [[1 + i, 0, 0] for i in range(MAX_CAPTION_TOKENS)]

    def table(ids: list[list[int]]) -> Rotary:
        turns = model.rope_embedder(torch.tensor(ids))
        return turns.real[None, :, None].contiguous(), turns.imag[None, :, None].contiguous()

    return table(image), table(caption)


def _rotate(x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    cos, sin = rotary
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def _patchify(x: torch.Tensor, patch: int) -> torch.Tensor:
    """[B, C, H, W] -> [B, N, P*P*C], inside a token (row, column, channel)."""
    b, c, h, w = x.shape
    x = x.view(b, c, h // patch, patch, w // patch, patch).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(b, -1, patch * patch * c)


def _unpatchify(x: torch.Tensor, patch: int, grid: tuple[int, int]) -> torch.Tensor:
    b, (rows, columns) = len(x), grid
    x = x.view(b, rows, columns, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(b, -1, rows * patch, columns * patch)
