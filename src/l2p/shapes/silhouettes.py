"""Owns naming the shape of a mask: it is stretched to 32x32 and compared with templates of every shape.

Legend: N objects, T templates, S side of the largest box, P pairs of an object and a template.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from l2p.shapes.canvas import foreground, to_canvases
from l2p.shapes.render import render
from l2p.shapes.world import SHAPES, SIZE_PX, Item, Scene

TEMPLATE_SIZE_PX = 32
TEMPLATE_RADII_PX = (9.0, 10.0, 11.0, 12.0)

_CLOSE_CALL = 1e-4  # of IoU; rounding in float32 is below 1e-5
_WEIGHT_BITS = 22  # of Pillow's fixed-point weights


def boxes_of(masks_NHW: np.ndarray) -> np.ndarray:
    """The box of each mask, int [N, 4]: x0, y0, x1, y1, upper bounds exclusive."""
    sides = []
    for axis in (1, 2):  # over rows: columns; then the other way
        taken = np.asarray(masks_NHW.any(axis=axis))
        sides += [taken.argmax(1), taken.shape[1] - taken[:, ::-1].argmax(1)]
    return np.stack([sides[0], sides[2], sides[1], sides[3]], axis=1)


def name_shapes(masks_NHW: np.ndarray, boxes_N4: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Best shape of each mask (bool), and its intersection over union with the best template, float32 [N]."""
    overlaps_NT = _overlaps(_stretched(masks_NHW, boxes_N4), _templates())
    best = overlaps_NT.argmax(1)
    shapes = [SHAPES[template // len(TEMPLATE_RADII_PX)] for template in best.tolist()]
    return shapes, overlaps_NT[np.arange(len(best)), best]


def _overlaps(masks: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """IoU in float32 [N, T] of soft masks, uint8 [N, ...] and [T, ...]; 0 where it is certainly not the best.

    Whole numbers tell quickly which templates can be best; only these are compared in float32.
    """
    masks, templates = (soft.reshape(len(soft), TEMPLATE_SIZE_PX**2) for soft in (masks, templates))
    shared_NT = np.minimum(masks[:, None], templates).sum(-1, dtype=np.uint32).astype(np.int64)
    sizes_NT = masks.sum(-1, dtype=np.int64)[:, None] + templates.sum(-1, dtype=np.int64)
    rough_NT = shared_NT / (sizes_NT - shared_NT)
    rows, columns = np.nonzero(rough_NT > rough_NT.max(1, initial=0.0, keepdims=True) - _CLOSE_CALL)
    mask_P, template_P = (np.float32(soft) / np.float32(255) for soft in (masks[rows], templates[columns]))
    overlaps = np.zeros(rough_NT.shape, dtype=np.float32)
    overlaps[rows, columns] = np.minimum(mask_P, template_P).sum(1) / np.maximum(mask_P, template_P).sum(1)
    return overlaps


@cache
def _templates() -> np.ndarray:
    """Soft masks, uint8 [T, 32, 32], of every shape at several radii."""
    middle = SIZE_PX / 2
    scenes = [
        Scene("white", (Item(shape, "black", middle, middle, radius),))
        for shape in SHAPES
        for radius in TEMPLATE_RADII_PX
    ]
    masks = foreground(to_canvases([render(scene) for scene in scenes]))
    return _stretched(masks, boxes_of(masks))


def _stretched(masks_NHW: np.ndarray, boxes_N4: np.ndarray) -> np.ndarray:
    """Each mask's box at 32x32, uint8 [N, 32, 32] in 0..255, as Pillow's bilinear `resize` gives it, bit for bit."""
    large = (boxes_N4[:, 2:] - boxes_N4[:, :2]).max(1, initial=0) > TEMPLATE_SIZE_PX
    stretched = np.empty((len(masks_NHW), TEMPLATE_SIZE_PX, TEMPLATE_SIZE_PX), dtype=np.uint8)
    stretched[~large] = _enlarged(masks_NHW[~large], boxes_N4[~large])
    for number in np.flatnonzero(large):
        x0, y0, x1, y1 = boxes_N4[number]
        crop = Image.fromarray(masks_NHW[number, y0:y1, x0:x1].astype(np.uint8) * 255)
        stretched[number] = np.asarray(crop.resize(stretched.shape[1:], Image.Resampling.BILINEAR))
    return stretched


def _enlarged(masks_NHW: np.ndarray, boxes_N4: np.ndarray) -> np.ndarray:
    """`_stretched` for boxes of at most 32x32, all at once instead of one by one."""
    widths, heights = (boxes_N4[:, 2:] - boxes_N4[:, :2]).T
    side = int(max(widths.max(initial=1), heights.max(initial=1)))
    weights = _weights()[:, :, :side]
    across = _rounded(_cropped(masks_NHW, boxes_N4, side) * 255.0 @ weights[widths].transpose(0, 2, 1))
    return _rounded(weights[heights] @ across).astype(np.uint8)


def _cropped(masks_NHW: np.ndarray, boxes_N4: np.ndarray, side: int) -> np.ndarray:
    """Squares of one size from each box's upper left corner; what is beyond the image repeats its last pixels."""
    steps = np.minimum(boxes_N4[:, :2, None] + np.arange(side), SIZE_PX - 1)
    return masks_NHW[np.arange(len(masks_NHW))[:, None, None], steps[:, 1, :, None], steps[:, 0, None, :]]


def _rounded(sums: np.ndarray) -> np.ndarray:
    """Sums of weighted bytes as bytes, in float64 as all of it: whole numbers below 2**53 are exact."""
    return np.floor(sums / (1 << _WEIGHT_BITS) + 0.5)


@cache
def _weights() -> np.ndarray:
    """[n, o, i]: share of pixel i in pixel o when n pixels become 32, in whole 2**-22; 0 for i >= n."""
    weights = np.zeros((TEMPLATE_SIZE_PX + 1, TEMPLATE_SIZE_PX, TEMPLATE_SIZE_PX))
    for count in range(1, TEMPLATE_SIZE_PX + 1):
        centers = (np.arange(TEMPLATE_SIZE_PX)[:, None] + 0.5) * (count / TEMPLATE_SIZE_PX)
        shares = np.maximum(1 - np.abs(np.arange(count) - centers + 0.5), 0)
        shares /= shares.sum(1, keepdims=True)
        weights[count, :, :count] = np.floor(shares * (1 << _WEIGHT_BITS) + 0.5)
    return weights
