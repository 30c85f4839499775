"""Owns likeness: the print of an image, and the search for images whose prints are nearly the same.

A print is a perceptual hash of 128 bits, by which candidates are found, and a thumbnail, by which they are compared.
The hash is that of the discrete cosine transform: which of its low frequencies are clearly there, of brightness as in
pHash and of the two colour differences, because in images of few things the colour is often all that tells them apart.
What a viewer does not notice (compression, a little noise, another size) changes few bits or none. Thumbnails are
compared by the mean difference of their levels (0..255).

Two hashes that differ in at most n bits agree in one of n + 1 bands whole, so that only hashes which share a band are
compared: nothing within n bits is missed, and no corpus costs its square.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

HASH_BITS = 128
_HASH_BYTES = HASH_BITS // 8
_SIDE_PX = 32
_THUMBNAIL_PX = 8
_THUMBNAIL_VALUES = 3 * _THUMBNAIL_PX**2
_LUMA, _CHROMA = 8, 4  # frequencies along each axis
_FIRST_ROWS = 4  # of an index, which doubles: there is one for each prompt
_FAINT = 12.0  # a frequency counts as there above this amplitude: a few levels of noise do not reach it


def print_of(image: Image.Image) -> bytes:
    """The print of an RGB image of any size: 16 bytes of hash, then the thumbnail, uint8 [8, 8, 3]."""
    small = image.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)
    values_HWC = np.asarray(small.convert("YCbCr"), dtype=np.float32) - 128
    luma = _frequencies(values_HWC[..., 0], _LUMA)
    colors = np.concatenate([_frequencies(values_HWC[..., channel], _CHROMA) for channel in (1, 2)])
    digest = np.packbits(np.concatenate([luma > _FAINT, colors > _FAINT, colors < -_FAINT]))
    thumbnail = small.resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
    return digest.tobytes() + thumbnail.tobytes()


def _frequencies(values_HW: np.ndarray, count: int) -> np.ndarray:
    cosines = _cosines(count)
    return (cosines @ values_HW @ cosines.T).ravel()


@cache
def _cosines(count: int) -> np.ndarray:
    """The first `count` rows of the orthonormal DCT-II of `_SIDE_PX` values."""
    from scipy.fft import dct

    cosines: np.ndarray = dct(np.eye(_SIDE_PX), norm="ortho", axis=0)[:count].astype(np.float32)
    return cosines


@dataclass(frozen=True)
class Likeness:
    """An earlier image (its position) and the mean difference of the two thumbnails' levels."""

    position: int
    levels: float


def find_alike(
    prints: Sequence[bytes | None], groups: Sequence[Hashable], *, same_group: bool, max_levels: float, max_bits: int
) -> list[Likeness | None]:
    """For each image the earlier one most like it, itself not like an earlier one; None if there is none.

    Args:
        prints: in the order in which images have precedence; None takes no part.
        groups: such as the prompt of each.
        same_group: whether to look inside groups only, or between different groups only.
        max_levels: alike are images whose thumbnails differ by at most this
        max_bits: and whose hashes differ in at most so many bits.
    """
    found: list[Likeness | None] = []
    indexes: dict[Hashable, _Index] = defaultdict(lambda: _Index(max_levels, max_bits))
    for position, (view, group) in enumerate(zip(prints, groups, strict=True)):
        if view is None:
            found.append(None)
            continue
        index = indexes[group if same_group else None]
        likeness = index.nearest(view, None if same_group else group)
        if likeness is None:
            index.add(position, view, group)
        found.append(likeness)
    return found


class _Index:
    """Prints by the bands of their hashes."""

    def __init__(self, max_levels: float, max_bits: int) -> None:
        self._max_levels, self._max_bits = max_levels, max_bits
        self._bands = _band_masks(max_bits + 1)
        self._buckets: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in self._bands]
        self._rows: list[tuple[int, Hashable]] = []
        self._known: set[tuple[bytes, Hashable]] = set()
        self._words = np.empty((0, _HASH_BYTES // 8), dtype=np.uint64)
        self._thumbnails = np.empty((0, _THUMBNAIL_VALUES), dtype=np.uint8)

    def nearest(self, view: bytes, not_of: Hashable) -> Likeness | None:
        """The print most like `view`, the earliest of several; those of group `not_of` are passed over."""
        rows = self._candidates(view, not_of)
        if not len(rows):
            return None
        thumbnail = np.frombuffer(view, dtype=np.uint8, offset=_HASH_BYTES)
        differences = np.abs(self._thumbnails[rows].astype(np.int16) - thumbnail).mean(axis=1)
        best = int(differences.argmin())
        if differences[best] > self._max_levels:
            return None
        return Likeness(self._rows[rows[best]][0], float(differences[best]))

    def add(self, position: int, view: bytes, group: Hashable) -> None:
        """Remember a print; one that this group has already adds nothing."""
        if (view, group) in self._known:
            return
        self._known.add((view, group))
        row, words = len(self._rows), _words(view)
        self._words, self._thumbnails = _grown(self._words, row), _grown(self._thumbnails, row)
        self._words[row] = words
        self._thumbnails[row] = np.frombuffer(view, dtype=np.uint8, offset=_HASH_BYTES)
        self._rows.append((position, group))
        for mask, bucket in zip(self._bands, self._buckets, strict=True):
            bucket[(words & mask).tobytes()].append(row)

    def _candidates(self, view: bytes, not_of: Hashable) -> np.ndarray:
        """Rows within the limit of bits, in order."""
        words = _words(view)
        found: set[int] = set()
        for mask, bucket in zip(self._bands, self._buckets, strict=True):
            found.update(bucket.get((words & mask).tobytes(), ()))
        if not_of is not None:
            found = {row for row in found if self._rows[row][1] != not_of}
        rows = np.fromiter(sorted(found), dtype=np.int64, count=len(found))
        near: np.ndarray = np.bitwise_count(self._words[rows] ^ words).sum(axis=1) <= self._max_bits
        return rows[near]


def _words(view: bytes) -> np.ndarray:
    return np.frombuffer(view, dtype=np.uint64, count=_HASH_BYTES // 8)


def _grown(array: np.ndarray, length: int) -> np.ndarray:
    """`array` with room for one row after `length`."""
    if length < len(array):
        return array
    return np.concatenate([array, np.empty((max(length, _FIRST_ROWS), array.shape[1]), dtype=array.dtype)])


def _band_masks(count: int) -> np.ndarray:
    """`count` masks [count, 2] that share the bits among them, every `count`-th to the same band.

    Neighbouring bits are alike in many images (the colour bits of grey ones all), so a band takes bits from everywhere.
    """
    bits = np.arange(HASH_BITS) % count
    packed = np.stack([np.packbits(bits == band) for band in range(count)])
    return packed.view(np.uint64)
