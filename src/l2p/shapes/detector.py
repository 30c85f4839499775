"""Owns seeing: rendered or generated images become lists of shapes with boxes, colours and confidence.

Method: the median of the border is the background; what differs from it is split into connected components; each is
compared with templates of every shape (intersection over union at 32x32) and with the palette. A blob that resembles
nothing gets a low confidence, so that the GenEval thresholds (0.3, and 0.9 for counting) mean something.
Everything is done for all images of a batch at once, and an image's result does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2p.shapes.canvas import foreground, shrink_mask, to_canvases
from l2p.shapes.palette import background_distances, name_colors
from l2p.shapes.silhouettes import boxes_of, name_shapes
from l2p.shapes.world import SIZE_PX

MIN_AREA_PX = 40
MAX_ASPECT = 1.43

# Confidence is linear in IoU x colour purity between these two points: (quality, confidence).
_LOW = (0.62, 0.3)
_HIGH = (0.78, 0.9)

_NEIGHBORS = np.zeros((3, 3, 3), dtype=bool)  # over images, rows, columns: images do not touch
_NEIGHBORS[1] = ndimage.generate_binary_structure(2, 1)


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
    return detect_batch([image])[0]


def detect_batch(images: Sequence[np.ndarray]) -> list[list[Detection]]:
    """`detect` of each image; their sizes may differ."""
    return detect_on(to_canvases(images))


def detect_on(canvases_CBHW: np.ndarray) -> list[list[Detection]]:
    """`detect` of images that are at 64x64 already (`to_canvases`)."""
    masks, owners = _split(foreground(canvases_CBHW))
    boxes = boxes_of(masks)
    colors, purities = name_colors(canvases_CBHW, masks, owners)
    shapes, overlaps = name_shapes(masks, boxes)
    scores = _confidence(overlaps * purities, boxes)
    found: list[list[Detection]] = [[] for _ in range(canvases_CBHW.shape[1])]
    rows = zip(owners.tolist(), shapes, colors, scores.tolist(), boxes.astype(float).tolist(), masks, strict=True)
    for owner, shape, color, score, (x0, y0, x1, y1), mask in rows:
        found[owner].append(Detection(shape, color, score, (x0, y0, x1, y1), mask))
    return [sorted(objects, key=lambda each: -each.score) for objects in found]


def background_name(image: np.ndarray) -> str:
    """Name of the nearest background colour of uint8 RGB [H, W, 3]."""
    distances = background_distances(to_canvases([image]))[0]
    return min(distances, key=lambda name: distances[name])


def colors_in(objects: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """Name of the palette colour under the mask of each (image, mask), both judged at 64x64.

    Args:
        objects: uint8 RGB [H, W, 3] with bool [H, W]. Objects of one array are looked at together.

    Raises:
        ValueError: not such an image.
    """
    if not objects:
        return []
    images = {id(image): image for image, _ in objects}
    numbers = {identity: number for number, identity in enumerate(images)}
    owners = np.array([numbers[id(image)] for image, _ in objects])
    masks = np.stack([shrink_mask(mask) for _, mask in objects])
    return name_colors(to_canvases(list(images.values())), masks, owners)[0]


def _split(foreground_BHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected components that are large enough: bool [N, H, W] and their images, int [N].

    They come image by image, and by their first pixel within an image.
    """
    labels, count = ndimage.label(foreground_BHW, _NEIGHBORS)
    places = np.flatnonzero(foreground_BHW)
    components = labels.ravel()[places]
    large = np.bincount(components, minlength=count + 1) >= MIN_AREA_PX
    kept = large[components]
    places, components = places[kept], (large.cumsum() - 1)[components[kept]]
    masks = np.zeros((int(large.sum()), SIZE_PX, SIZE_PX), dtype=bool)
    image_area = SIZE_PX**2
    masks.reshape(len(masks), image_area)[components, places % image_area] = True
    owners = np.empty(len(masks), dtype=np.int64)
    owners[components] = places // image_area
    return masks, owners


def _confidence(qualities: np.ndarray, boxes_N4: np.ndarray) -> np.ndarray:
    """Confidence, float64 [N] in 0..1; that of an elongated box is of quality 0."""
    widths, heights = (boxes_N4[:, 2:] - boxes_N4[:, :2]).T
    aspects = widths / heights
    qualities = np.where((aspects > 1 / MAX_ASPECT) & (aspects < MAX_ASPECT), qualities, 0.0)
    (q0, c0), (q1, c1) = _LOW, _HIGH
    return np.clip(c0 + (qualities - q0) / (q1 - q0) * (c1 - c0), 0.0, 1.0)
