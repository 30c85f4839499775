"""Owns the detailer head of the method: a small U-Net from the noisy image and the token map to an image.

Layout and key names are those of the published checkpoint (arXiv 2605.12013, `local_decoder`, widths 64, 128, 256, 512
and stride 16), so its weights load key for key; widths and number of levels are free here.
"""

# B batch, H W pixels, D token width, h w token grid

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the field's name for it)


def _conv(inputs: int, outputs: int, *, activate: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1)]
    return nn.Sequential(*layers, nn.SiLU()) if activate else nn.Sequential(*layers)


class DetailerHead(nn.Module):
    """U-Net of stride 2^levels; the token map enters at the bottleneck. No norms, default initialisation."""

    def __init__(self, token_dim: int, widths: tuple[int, ...] = (64, 128, 256, 512)) -> None:
        """`widths` are the channels per level, outermost first."""
        super().__init__()
        self.levels = len(widths)
        inputs = (3, *widths[:-1])
        outputs = (widths[0], *widths[:-1])  # of the decoders: one level narrower, the outermost keeps its width
        for level in range(1, self.levels + 1):
            width = widths[level - 1]
            self.add_module(f"enc{level}", _conv(inputs[level - 1], width))
            self.add_module(
                f"up{level}", nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1))
            )
            self.add_module(f"dec{level}", _conv(2 * width, outputs[level - 1]))
        self.bottleneck = nn.Sequential(nn.Conv2d(widths[-1] + token_dim, widths[-1], 1), nn.SiLU())
        self.out_conv = nn.Conv2d(widths[0], 3, 1)

    def forward(self, pixels_BCHW: Tensor, tokens_BDhw: Tensor) -> Tensor:
        """Noisy pixels [B, 3, H, W] and token map [B, D, h, w] -> [B, 3, H, W]; H, W multiples of 2^levels."""
        x, skips = pixels_BCHW, []
        for level in range(1, self.levels + 1):
            x = self.get_submodule(f"enc{level}")(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        if tokens_BDhw.shape[-2:] != x.shape[-2:]:
            tokens_BDhw = F.interpolate(tokens_BDhw, size=x.shape[-2:], mode="nearest")
        x = self.bottleneck(torch.cat([x, tokens_BDhw.to(x.dtype)], 1))
        for level in range(self.levels, 0, -1):
            x = self.get_submodule(f"up{level}")(x)
            x = self.get_submodule(f"dec{level}")(torch.cat([x, skips.pop()], 1))
        return self.out_conv(x)


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
        patches = self.linear(self.norm(tokens_BDhw.permute(0, 2, 3, 1)))
        return F.pixel_shuffle(patches.permute(0, 3, 1, 2), self.patch_size)
