"""Owns the linear readout: what of the image can be read directly off the normalised tokens (decision 0003)."""

# B batch, D token width, h w token grid, P patch side

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the field's name for it)


class LinearReadout(nn.Module):
    """Linear map from normalised tokens to RGB patches: what of the image can be read off the features directly."""

    def __init__(self, token_dim: int, patch_size: int) -> None:
        """Token width and side of a patch in pixels."""
        super().__init__()
        self.patch_size = patch_size
        self.norm = nn.LayerNorm(token_dim, elementwise_affine=False)
        self.linear = nn.Linear(token_dim, 3 * patch_size**2)

    def forward(self, tokens_BDhw: Tensor) -> Tensor:
        """Token map [B, D, h, w] -> [B, 3, hP, wP]."""
        tokens_BhwD = self.norm(tokens_BDhw.permute(0, 2, 3, 1))
        patches = self.linear(tokens_BhwD.to(self.linear.weight.dtype))
        return F.pixel_shuffle(patches.permute(0, 3, 1, 2), self.patch_size)
