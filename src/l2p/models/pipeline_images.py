"""Owns the images that a drawing starts from: reading them in any of diffusers' forms, noising them, keeping parts.

Images given are in [0, 1] (PIL: 8 bits a channel), pixels within are in [-1, 1]; a mask is white where to draw anew.
"""

# B batch, C channels, H W pixels

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from l2p.diffusion.path import interpolate
from l2p.errors import DataError

EDIT_STRENGTH = 0.6  # share of the steps for an image without a mask, as in diffusers' image-to-image pipelines
_WHITE = 255
_HALF = 0.5
_CHANNELS = {"image": (3,), "mask_image": (1, 3)}


@dataclass(frozen=True)
class Known:
    """What is there before anything is drawn.

    `pixels` [B, 3, H, W] in [-1, 1]; `redraw` [B, 1, H, W], True where to draw, None for everywhere; `strength` in
    (0, 1] is the share of the steps that is taken.
    """

    pixels: Tensor
    redraw: Tensor | None
    strength: float

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def for_images(self, count: int, device: torch.device) -> Known:
        """One for each of `count` images, of one for all or of one for each prompt.

        Raises:
            DataError: their number does not divide that of the images.
        """
        pixels = _repeat("image", self.pixels.to(device), count)
        redraw = None if self.redraw is None else _repeat("mask_image", self.redraw.to(device), count)
        return replace(self, pixels=pixels, redraw=redraw)

    def at(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """The image at noise level `sigma` (a scalar) on its path to `noise`."""
        return interpolate(self.pixels, noise, sigma.expand(len(noise)))

    def kept_in(self, drawn: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """`drawn` where the mask is white, the image at `sigma` elsewhere."""
        return drawn if self.redraw is None else torch.where(self.redraw, drawn, self.at(sigma, noise))


def read_known(image: Any, mask_image: Any, strength: float | None) -> Known | None:
    """Check and read what a drawing starts from; None for noise alone.

    Raises:
        DataError: a mask or a strength without an image, sizes that differ, or values out of range.
    """
    if image is None:
        for name, value in (("strength", strength), ("mask_image", mask_image)):
            if value is not None:
                raise DataError(f"{name} is given without an image. Give `image` too, or leave {name} out.")
        return None
    pixels = 2 * _read(image, "image") - 1
    redraw = None if mask_image is None else _read(mask_image, "mask_image").mean(1, keepdim=True) >= _HALF
    if redraw is not None and redraw.shape[-2:] != pixels.shape[-2:]:
        raise DataError(f"mask_image is {_size(redraw)} pixels and image is {_size(pixels)}. Give them one size.")
    if strength is None:
        strength = EDIT_STRENGTH if redraw is None else 1.0
    if not 0 < strength <= 1:
        raise DataError(
            f"strength = {strength}: expected more than 0, which changes nothing, and at most 1 (from noise)."
        )
    return Known(pixels, redraw, strength)


def _read(given: Any, name: str) -> Tensor:
    """[B, C, H, W] in [0, 1] of one image, a list of them, or a batch."""
    items = list(given) if isinstance(given, list | tuple) else [given]
    if not items:
        raise DataError(f"{name} is an empty list.")
    tensors = [_read_one(item, name) for item in items]
    if others := [tensor for tensor in tensors if tensor.shape[1:] != tensors[0].shape[1:]]:
        raise DataError(f"{name}: one is {_size(tensors[0])} pixels, another {_size(others[0])}. Give them one size.")
    return torch.cat(tensors)


def _read_one(item: Any, name: str) -> Tensor:
    if isinstance(item, Image.Image):
        values = np.array(item.convert("RGB" if name == "image" else "L"), dtype=np.float32) / _WHITE
        return _read_one(values if values.ndim > 2 else values[..., None], name)
    if isinstance(item, np.ndarray):
        item = torch.from_numpy(item)
        item = item.movedim(-1, -3) if item.ndim > 2 else item
    if not isinstance(item, Tensor):
        raise DataError(
            f"{name} is a {type(item).__name__}: expected a PIL image, an array or a tensor, or a list of them."
        )
    return _checked(item, name)


def _checked(item: Tensor, name: str) -> Tensor:
    channels = _CHANNELS[name]
    tensor = item.float() if item.dtype == torch.bool and name == "mask_image" else item
    tensor = tensor[None, None] if tensor.ndim == 2 else tensor[None] if tensor.ndim == 3 else tensor
    if tensor.ndim != 4 or tensor.shape[1] not in channels:
        raise DataError(f"{name} has shape {list(item.shape)}: expected {' or '.join(map(str, channels))} channels.")
    if not tensor.is_floating_point() or not 0 <= float(tensor.min()) <= float(tensor.max()) <= 1:
        raise DataError(
            f"{name} has values from {item.min()} to {item.max()} ({item.dtype}): expected floats in [0, 1]."
        )
    return tensor.float()


def _repeat(name: str, tensor: Tensor, count: int) -> Tensor:
    if count % len(tensor):
        raise DataError(f"{name}: {len(tensor)} given for {count} images. Give one for all, or one for each prompt.")
    return tensor.repeat_interleave(count // len(tensor), 0)


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]}x{tensor.shape[-2]}"
