"""Owns seeing: a rendered or generated image becomes a list of shapes with boxes, colours and confidence.

Method: the median of the border is the background; what differs from it is split into connected components; each is
compared with templates of every shape (intersection over union at 32x32) and with the palette. A blob that resembles
nothing gets a low confidence, so that the GenEval thresholds (0.3, and 0.9 for counting) mean something.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion
from skimage.measure import label, regionprops

from l2p.shapes.render import render
from l2p.shapes.world import BACKGROUNDS, COLORS, SHAPES, SIZE_PX, Item, Scene

FOREGROUND_DISTANCE = 70.0  # Euclidean RGB distance from the background, 0..442
MIN_CORE_PX = 10  # fewer pixels than this say nothing of a colour
MIN_AREA_PX = 40
TEMPLATE_SIZE_PX = 32
TEMPLATE_RADII_PX = (9.0, 10.0, 11.0, 12.0)
MAX_ASPECT = 1.43

# Confidence is linear in IoU x colour purity between these two points: (quality, confidence).
_LOW = (0.62, 0.3)
_HIGH = (0.78, 0.9)


@dataclass(frozen=True)
class Detection:
    """One object. `box` is (x0, y0, x1, y1) in pixels, upper bounds exclusive; `mask` is bool [H, W]."""

    shape: str
    color: str
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray

    @property
    def center(self) -> tuple[float, float]:
        """Centre of the box, (x, y) in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


def detect(image: np.ndarray) -> list[Detection]:
    """Find the shapes in uint8 RGB [H, W, 3], best first. Images of other sizes are judged at 64x64."""
    pixels = _canonical(image)
    distance = _distance(pixels, background_rgb(pixels))
    labels = label(distance > FOREGROUND_DISTANCE, connectivity=1)
    found = []
    for region in regionprops(labels):
        if region.area >= MIN_AREA_PX:
            found.append(_describe(pixels, labels == region.label))
    return sorted(found, key=lambda detection: -detection.score)


def background_name(image: np.ndarray) -> str:
    """Name of the nearest background colour of uint8 RGB [H, W, 3]."""
    rgb = background_rgb(_canonical(image))
    names = list(BACKGROUNDS)
    return names[int(_squared_distance(rgb, tuple(BACKGROUNDS.values())).argmin())]


def background_distance(image: np.ndarray, name: str) -> float:
    """Euclidean RGB distance, 0..442, of the background of uint8 RGB [H, W, 3] from the background colour `name`."""
    return float(_distance(background_rgb(_canonical(image)), np.array(BACKGROUNDS[name])))


def color_in(image: np.ndarray, mask: np.ndarray) -> str:
    """Name of the palette colour under `mask`, bool [H, W], of uint8 RGB [H, W, 3] (both judged at 64x64)."""
    if mask.shape != (SIZE_PX, SIZE_PX):
        resized = Image.fromarray(mask.astype(np.uint8) * 255).resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)
        mask = np.asarray(resized) > 127
    return _core_color(_canonical(image), mask)[0]


def background_rgb(pixels: np.ndarray) -> np.ndarray:
    """Median colour of the image border, float [3] in 0..255."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.median(border, axis=0)


def _canonical(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an RGB image [H, W, 3], got shape {image.shape}")
    if image.shape[:2] != (SIZE_PX, SIZE_PX):
        image = np.asarray(Image.fromarray(image).resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX))
    return image.astype(np.float32)


def _describe(pixels: np.ndarray, mask: np.ndarray) -> Detection:
    color, purity = _core_color(pixels, mask)
    rows, columns = np.where(mask)
    x0, y0, x1, y1 = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    aspect = (x1 - x0) / (y1 - y0)
    shape, overlap = _shape_of(mask[y0:y1, x0:x1])
    quality = overlap * purity if 1 / MAX_ASPECT < aspect < MAX_ASPECT else 0.0
    return Detection(shape, color, _confidence(quality), (float(x0), float(y0), float(x1), float(y1)), mask)


def _core_color(pixels: np.ndarray, mask: np.ndarray) -> tuple[str, float]:
    """Colour and purity under a mask, without its anti-aliased edge, whose blends name wrong colours."""
    core = binary_erosion(mask)
    return _color_of(pixels[core if core.sum() >= MIN_CORE_PX else mask])


def _confidence(quality: float) -> float:
    (q0, c0), (q1, c1) = _LOW, _HIGH
    return float(np.clip(c0 + (quality - q0) / (q1 - q0) * (c1 - c0), 0.0, 1.0))


def _color_of(rgb: np.ndarray) -> tuple[str, float]:
    """Most frequent nearest palette colour of rgb [n, 3] and the share of pixels that agree."""
    nearest = _squared_distance(rgb, tuple(COLORS.values())).argmin(-1)
    votes = np.bincount(nearest, minlength=len(COLORS))
    winner = int(votes.argmax())
    return list(COLORS)[winner], float(votes[winner] / votes.sum())


def _shape_of(crop: np.ndarray) -> tuple[str, float]:
    """Best shape for a bool crop [h, w] and its IoU with the best template."""
    mask = _resample(crop)
    overlaps = {}
    for shape in SHAPES:
        templates = _templates(shape)
        iou = np.minimum(templates, mask).sum((1, 2)) / np.maximum(templates, mask).sum((1, 2))
        overlaps[shape] = float(iou.max())
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return best, overlaps[best]


@cache
def _templates(shape: str) -> np.ndarray:
    """Soft masks [n, 32, 32] of `shape` at several radii, each cropped to its own box."""
    masks = []
    for radius in TEMPLATE_RADII_PX:
        drawn = render(Scene("white", (Item(shape, "black", SIZE_PX / 2, SIZE_PX / 2, radius),))).astype(np.float32)
        mask = _distance(drawn, background_rgb(drawn)) > FOREGROUND_DISTANCE
        rows, columns = np.where(mask)
        masks.append(_resample(mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]))
    return np.stack(masks)


def _resample(mask: np.ndarray) -> np.ndarray:
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    size = (TEMPLATE_SIZE_PX, TEMPLATE_SIZE_PX)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR), dtype=np.float32) / 255


def _distance(pixels: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    return np.sqrt(((pixels - rgb) ** 2).sum(-1))


def _squared_distance(rgb: np.ndarray, palette: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """[..., 3] against n palette colours -> [..., n]."""
    return ((np.asarray(rgb)[..., None, :] - np.asarray(palette, dtype=np.float32)) ** 2).sum(-1)
