"""Owns Z-Image's attention as training wants it: real arithmetic for the rotary embedding, a fast backward on a CPU.

It computes what diffusers' own processor computes. That one turns pairs by complex numbers, which torch.compile leaves
uncompiled, and on a CPU it calls a fused kernel whose backward pass is slow for short sequences.
"""

# B batch, N tokens, H heads, E head width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

MAX_PLAIN_TOKENS = 1024  # above, the matrix of weights costs more memory than its fast backward is worth


class RealRotaryAttention:
    """Attention processor of a Z-Image block."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        """Self-attention over [B, N, D]; mask [B, N], True at tokens; `freqs_cis` complex [B, N, E / 2]."""
        query, key, value = (
            to(hidden_states).unflatten(-1, (attn.heads, -1)) for to in (attn.to_q, attn.to_k, attn.to_v)
        )
        if attn.norm_q is not None:
            query, key = attn.norm_q(query), attn.norm_k(key)
        if freqs_cis is not None:
            query, key = rotate(query, freqs_cis), rotate(key, freqs_cis)
        query, key, value = (x_BNHE.to(value.dtype).transpose(1, 2) for x_BNHE in (query, key, value))
        mask = None if attention_mask is None else attention_mask[:, None, None, :]
        return attn.to_out[0](attend(query, key, value, mask).transpose(1, 2).flatten(2))


def rotate(x_BNHE: Tensor, freqs_cis: Tensor) -> Tensor:
    """Turn neighbouring pairs by the angles of `freqs_cis`, in float32, back in the dtype of `x_BNHE`."""
    cos, sin = freqs_cis.real[:, :, None], freqs_cis.imag[:, :, None]
    even, odd = x_BNHE.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x_BNHE.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt(E)) V over [B, H, N, E]; `mask` [B, 1, 1, N] or None."""
    if query.device.type != "cpu" or query.shape[2] > MAX_PLAIN_TOKENS:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(value.dtype) @ value
