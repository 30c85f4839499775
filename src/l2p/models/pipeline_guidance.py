"""Owns guidance while drawing: v = v_c + g (v_c - v_u), g = 0 for none (decisions 0001 and 0005)."""

# B batch, C channels, H W pixels, P patch side

from __future__ import annotations

from torch import Tensor

from l2p.models.adapters.base import Guidance

_TINY = 1e-12


def guided_velocity(with_text: Tensor, without: Tensor, guidance: Guidance, *, patch_size: int) -> Tensor:
    """Velocity [B, 3, H, W] that leads away from the negative prompt.

    Args:
        with_text: v_c, of the prompt.
        without: v_u, of the negative prompt.
        guidance: g, and whether each patch keeps the norm that it has in v_c, as a token of Qwen-Image does (Lumina 2
            takes the norm along the rows of its latents, which have no counterpart here).
        patch_size: P, pixels.
    """
    v = with_text + guidance.scale * (with_text - without)
    if not guidance.rescale:
        return v
    blocks, norms = _blocks(v, patch_size), [_norm(_blocks(part, patch_size)) for part in (with_text, v)]
    return (blocks * (norms[0] / norms[1].clamp_min(_TINY))).flatten(4, 5).flatten(2, 3)


def _blocks(pixels_BCHW: Tensor, patch_size: int) -> Tensor:
    """[B, C, H, W] -> [B, C, h, P, w, P]."""
    return pixels_BCHW.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))


def _norm(blocks_BChPwP: Tensor) -> Tensor:
    """Euclidean norm of each patch, [B, 1, h, 1, w, 1]."""
    return blocks_BChPwP.square().sum((1, 3, 5), keepdim=True).sqrt()
