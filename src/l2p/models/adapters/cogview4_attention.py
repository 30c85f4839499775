"""Owns CogView4's attention with a mask that masks.

diffusers' own processor turns its mask of zeros and ones into a float, which scaled dot-product attention adds to the
scores: padding is dampened by a factor e, not hidden. This one computes the same without a mask, and hides with one.
"""

# B batch, L caption tokens, N image tokens, H heads, E head width

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the field's name for it)


class MaskedAttention:
    """Attention processor of a CogView4 block."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Joint attention over captions [B, L, D] and image [B, N, D]; `attention_mask` [B, L], True at tokens."""
        length, dtype = encoder_hidden_states.shape[1], encoder_hidden_states.dtype
        joint = torch.cat([encoder_hidden_states, hidden_states], 1)
        query, key, value = (
            to(joint).unflatten(2, (attn.heads, -1)).transpose(1, 2) for to in (attn.to_q, attn.to_k, attn.to_v)
        )
        if attn.norm_q is not None:
            query, key = attn.norm_q(query).to(dtype), attn.norm_k(key).to(dtype)
        if image_rotary_emb is not None:
            query, key = (_turn_image(x, length, image_rotary_emb) for x in (query, key))
        mask = None
        if attention_mask is not None:
            mask = F.pad(attention_mask.bool(), (0, hidden_states.shape[1]), value=True)[:, None, None, :]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out.to(query.dtype)))
        return out[:, length:], out[:, :length]


def _turn_image(x_BHNE: Tensor, length: int, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of the tokens behind the caption."""
    image = apply_rotary_emb(x_BHNE[:, :, length:], angles, use_real_unbind_dim=-2)
    return torch.cat([x_BHNE[:, :, :length], image], 2)
