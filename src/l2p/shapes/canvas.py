"""Owns what the judges look at: images at 64x64, their background, and what stands out from it.

Legend: C channels (planar, since every step goes through whole channels), B images, H W 64 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from l2p.shapes.world import SIZE_PX

FOREGROUND_DISTANCE = 70.0  # Euclidean RGB distance from the background, 0..442


def to_canvases(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images, uint8 RGB [H, W, 3] of any sizes, as uint8 [C, B, 64, 64].

    Raises:
        ValueError: not such an image.
    """
    if not images:
        return np.empty((3, 0, SIZE_PX, SIZE_PX), dtype=np.uint8)
    return np.ascontiguousarray(np.stack([_to_canvas(image) for image in images]).transpose(3, 0, 1, 2))


def background_rgb(canvases_CBHW: np.ndarray) -> np.ndarray:
    """Median colour of the border (corners count twice) of uint8 canvases, float32 [C, B] in 0..255."""
    edges = (canvases_CBHW[..., 0, :], canvases_CBHW[..., -1, :], canvases_CBHW[..., 0], canvases_CBHW[..., -1])
    border = np.sort(np.concatenate(edges, axis=-1), axis=-1, kind="stable")  # for bytes a radix sort
    middle = border.shape[-1] // 2
    return border[..., middle - 1 : middle + 1].mean(axis=-1, dtype=np.float32)


def foreground(canvases_CBHW: np.ndarray) -> np.ndarray:
    """What is further from the background than `FOREGROUND_DISTANCE`, bool [B, H, W]."""
    difference = np.subtract(canvases_CBHW, background_rgb(canvases_CBHW)[..., None, None], dtype=np.float32)
    difference *= difference
    return difference[0] + difference[1] + difference[2] > FOREGROUND_DISTANCE**2


def shrink_mask(mask: np.ndarray) -> np.ndarray:
    """A mask, bool [H, W] of any size, as bool [64, 64]: what is covered by more than half."""
    if mask.shape == (SIZE_PX, SIZE_PX):
        return mask
    return np.asarray(_box_resized(mask.astype(np.uint8) * 255)) > 127


def _to_canvas(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected a uint8 RGB image [H, W, 3], got {image.dtype} {list(image.shape)}")
    return image if image.shape[:2] == (SIZE_PX, SIZE_PX) else np.asarray(_box_resized(image))


def _box_resized(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)
