"""Owns naming colours: that of the background, and the palette colour which most pixels of an object are nearest to.

Legend: C channels, B images, N objects, H W 64 pixels, P pixels of objects.
"""

from __future__ import annotations

import numpy as np

from l2p.shapes.canvas import background_rgb
from l2p.shapes.world import BACKGROUNDS, COLORS, SIZE_PX

MIN_CORE_PX = 10  # fewer pixels than this say nothing of a colour

_NAMES = tuple(COLORS)
_PALETTE = np.array(list(COLORS.values()), dtype=np.float32)
_NUMBERS = 8  # a power of two, above the number of colours
# Squared distance to each colour, less what all have in common, times 8, plus the number of the colour: the least one
# names the nearest colour. All are whole numbers below 2**24, hence exact in float32, in any order of summation.
_FACTORS = -2 * _NUMBERS * _PALETTE
_OFFSETS = (_NUMBERS * (_PALETTE**2).sum(1) + np.arange(len(_PALETTE), dtype=np.float32))[:, None]


def background_distances(canvases_CBHW: np.ndarray) -> list[dict[str, float]]:
    """Euclidean RGB distance, 0..442, of each image's background from every background colour of the world."""
    known = np.array(list(BACKGROUNDS.values()))
    distances = np.sqrt(((background_rgb(canvases_CBHW).T[:, None] - known) ** 2).sum(-1))
    return [dict(zip(BACKGROUNDS, row, strict=True)) for row in distances.tolist()]


def name_colors(canvases_CBHW: np.ndarray, masks_NHW: np.ndarray, owners: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Colour of each object, and the share of its pixels that agree, float64 [N] in 0..1.

    An object's anti-aliased edge, whose blends name wrong colours, is left out unless too little remains.

    Args:
        canvases_CBHW: uint8.
        masks_NHW: bool.
        owners: the image, int [N], that each mask belongs to.
    """
    count, area = len(masks_NHW), SIZE_PX**2
    places_P = _core_places(masks_NHW)
    objects_P = places_P // area
    shifts = (owners - np.arange(count)) * area  # from an object's mask to its image
    pixels_CP = canvases_CBHW.reshape(len(canvases_CBHW), -1)[:, places_P + shifts[objects_P]]
    nearest_P = (_FACTORS @ pixels_CP.astype(np.float32) + _OFFSETS).min(0).astype(np.int64) & (_NUMBERS - 1)
    votes = np.bincount(objects_P * _NUMBERS + nearest_P, minlength=count * _NUMBERS).reshape(count, _NUMBERS)
    return [_NAMES[winner] for winner in votes.argmax(1)], votes.max(1) / np.maximum(votes.sum(1), 1)


def _core_places(masks_NHW: np.ndarray) -> np.ndarray:
    """The pixels, as indices into the flat masks, that tell each object's colour."""
    cores = _eroded(masks_NHW)
    places = np.flatnonzero(cores)
    few = np.bincount(places // SIZE_PX**2, minlength=len(cores)) < MIN_CORE_PX
    if not few.any():
        return places
    cores[few] = masks_NHW[few]
    return np.flatnonzero(cores)


def _eroded(masks_NHW: np.ndarray) -> np.ndarray:
    """Pixels whose four neighbours belong to the mask too; those at the image's border do not.

    Works on the flat array, several times faster than row by row; wrong neighbours are only met at the border.
    """
    masks, cores = masks_NHW.ravel(), masks_NHW.flatten()
    for step in (1, SIZE_PX):
        cores[step:] &= masks[:-step]
        cores[:-step] &= masks[step:]
    eroded = cores.reshape(masks_NHW.shape)
    for edge in (eroded[:, 0], eroded[:, -1], eroded[:, :, 0], eroded[:, :, -1]):
        edge[...] = False
    return eroded
