"""Owns the U-Net head: normalised residual blocks at 1/s of the resolution, and one cheap path at all of it.

The image is folded to stride s = P / 2^levels (pixel unshuffle) before the first block, so a larger patch makes the
U-Net cheaper per pixel instead of deeper. Folding squeezes the 3 s^2 values of a cell through the first width, which
noise does not survive; so the U-Net draws the picture, and says pixel by pixel how much of a few filters of the image
itself goes through (the detail path). Merges are additions and resampling is by 2x2 kernels of stride 2, as in NAFNet
(arXiv 2204.04676).
"""

# B batch, H W pixels, D token width, h w token grid, P patch side

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from l2p.errors import ModelError

DETAIL_CHANNELS = 8  # of the path at full resolution
MAX_GROUPS, MIN_GROUP_CHANNELS = 32, 4  # a group of one channel would take its mean, and so the colour, away


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts at zero, also after it was built without memory."""

    def reset_parameters(self) -> None:
        """Zeros."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), which starts as the identity."""

    def __init__(self, width: int) -> None:
        """Channels in and out."""
        super().__init__()
        self.norm1, self.conv1 = group_norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = group_norm(width), ZeroConv2d(width, width, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        hidden = self.conv1(F.silu(self.norm1(x_BCHW)))
        return x_BCHW + self.conv2(F.silu(self.norm2(hidden)))


class UNetHead(nn.Module):
    """U-Net between stride s and the token grid at stride P, where the normalised tokens are added."""

    def __init__(self, token_dim: int, *, patch_size: int, widths: tuple[int, ...]) -> None:
        """Build with random weights.

        Args:
            token_dim: D.
            patch_size: P, pixels.
            widths: channels per level, outermost first.

        Raises:
            ModelError: the patch cannot be halved once per level.
        """
        super().__init__()
        self.patch_size, self.stride = patch_size, stem_stride(patch_size, len(widths))
        self.stem = nn.Conv2d(3 * self.stride**2, widths[0], 3, padding=1)
        inner = (*widths[1:], widths[-1])  # the width below each level
        self.encoders = nn.ModuleList(ResBlock(width) for width in widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, inner, strict=True))
        self.token_norm = nn.LayerNorm(token_dim, elementwise_affine=False)
        self.token_proj = nn.Conv2d(token_dim, widths[-1], 1)
        self.middle = ResBlock(widths[-1])
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in zip(widths, inner, strict=True))
        self.decoders = nn.ModuleList(ResBlock(width) for width in widths)
        self.norm = group_norm(widths[0])
        self.detail = nn.Conv2d(widths[0], 2 * DETAIL_CHANNELS * self.stride**2, 1)
        self.pixel_conv = nn.Conv2d(3, DETAIL_CHANNELS, 3, padding=1)
        self.out_conv = nn.Conv2d(DETAIL_CHANNELS, 3, 3, padding=1)

    @property
    def multiple_px(self) -> int:
        """Both sides of an image must be multiples of this."""
        return self.patch_size

    @torch.no_grad()
    def zero_output(self) -> None:
        """Let the head put out zero, in place: beside a linear readout it then starts as a correction of nothing."""
        for parameter in self.out_conv.parameters():
            parameter.zero_()

    def forward(self, pixels_BCHW: Tensor, tokens_BDhw: Tensor) -> Tensor:
        """Noisy pixels [B, 3, H, W] and token map [B, D, H/P, W/P], of any floating dtype -> [B, 3, H, W].

        Raises:
            ModelError: the token map is not that of the image.
        """
        self._check(pixels_BCHW, tokens_BDhw)
        x, skips = self.stem(F.pixel_unshuffle(pixels_BCHW, self.stride)), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        tokens_BDhw = self.token_norm(tokens_BDhw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.middle(x + self.token_proj(tokens_BDhw.to(x.dtype)))
        for up, decoder in zip(reversed(self.ups), reversed(self.decoders), strict=True):
            x = decoder(up(x) + skips.pop())
        gain, shift = F.pixel_shuffle(self.detail(F.silu(self.norm(x))), self.stride).chunk(2, dim=1)
        return self.out_conv(F.silu(self.pixel_conv(pixels_BCHW) * (1 + gain) + shift))

    def _check(self, pixels_BCHW: Tensor, tokens_BDhw: Tensor) -> None:
        (height, width), (rows, columns) = pixels_BCHW.shape[-2:], tokens_BDhw.shape[-2:]
        if (height, width) != (rows * self.patch_size, columns * self.patch_size):
            raise ModelError(
                f"image of {width}x{height} pixels with a token map of {columns}x{rows}: at patch {self.patch_size} "
                f"the image must have {columns * self.patch_size}x{rows * self.patch_size} pixels."
            )


def group_norm(width: int) -> nn.GroupNorm:
    """GroupNorm of as many equal groups of at least `MIN_GROUP_CHANNELS` as `width` allows, up to `MAX_GROUPS`."""
    most = min(MAX_GROUPS, width // MIN_GROUP_CHANNELS)
    groups = next((groups for groups in range(most, 0, -1) if width % groups == 0), 1)
    return nn.GroupNorm(groups, width)


def stem_stride(patch_size: int, levels: int) -> int:
    """s: how far the image is folded before the first of `levels` halvings, so that they end at the token grid.

    Raises:
        ModelError: the patch cannot be halved once per level; names what could.
    """
    multiple = 2**levels
    if patch_size % multiple == 0:
        return patch_size // multiple
    most = (patch_size & -patch_size).bit_length() - 1  # halvings of the patch that come out even
    below = patch_size // multiple * multiple
    patches = " or ".join(str(size) for size in (below, below + multiple) if size)
    fewer = f", or convert.head.widths with at most {most} entries" if most else ""
    raise ModelError(
        f"convert.patch_size_px = {patch_size} with {levels} levels in convert.head.widths: the unet head needs a "
        f"patch that is a multiple of {multiple}. Choose {patches} pixels{fewer}."
    )
