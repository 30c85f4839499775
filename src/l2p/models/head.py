"""Owns the choice of a head, and the published one: a small U-Net from noisy image and token map to an image.

Layout and key names are those of the published checkpoint (arXiv 2605.12013, `local_decoder`, widths 64, 128, 256, 512
and stride 16), so its weights load key for key; widths and number of levels are free here.
"""

# B batch, H W pixels, D token width, h w token grid, P patch side

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from l2p.errors import ModelError
from l2p.models.unet_head import UNetHead

HEAD_TYPES = ("official", "unet")


def build_head(head_type: str, token_dim: int, *, patch_size: int, widths: tuple[int, ...]) -> DetailerHead | UNetHead:
    """The head of a pixel model, with random weights.

    Args:
        head_type: one of `HEAD_TYPES`.
        token_dim: D.
        patch_size: P, pixels.
        widths: channels per level, outermost first.

    Raises:
        ModelError: an unknown type, or widths that fit neither themselves nor the patch; names what would.
    """
    if head_type not in HEAD_TYPES:
        raise ModelError(f"convert.head.type = {head_type!r}: no such head. Choose {' or '.join(HEAD_TYPES)}.")
    if not widths or min(widths) < 1:
        raise ModelError(
            f"convert.head.widths = {list(widths)}: expected the channels of at least one level, outermost first, "
            "each 1 or more, such as [64, 128, 256, 512]."
        )
    if head_type == "unet":
        return UNetHead(token_dim, patch_size=patch_size, widths=widths)
    if 2 ** len(widths) > patch_size:
        most = patch_size.bit_length() - 1
        fewer = f"at most {most} levels, or " if most else ""
        raise ModelError(
            f"convert.head.widths has {len(widths)} levels: the official head would read only some of the tokens of "
            f"patch {patch_size}. Use {fewer}a convert.patch_size_px of at least {2 ** len(widths)}."
        )
    return DetailerHead(token_dim, widths)


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.SiLU())


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

    @property
    def multiple_px(self) -> int:
        """Both sides of an image must be multiples of this."""
        return int(2**self.levels)

    @torch.no_grad()
    def zero_output(self) -> None:
        """Let the head put out zero, in place: beside a linear readout it then starts as a correction of nothing."""
        for parameter in self.out_conv.parameters():
            parameter.zero_()

    def forward(self, pixels_BCHW: Tensor, tokens_BDhw: Tensor) -> Tensor:
        """Noisy pixels [B, 3, H, W] and token map [B, D, h, w] -> [B, 3, H, W]; H, W multiples of 2^levels.

        Where the grids differ (patch 160, 6 levels: 64 tokens a side on 160 places) each place takes the nearest token.
        """
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
