"""Owns how an image file comes into a page: as a data URI, at most twice as large as it is shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from l2p.config import Layout
from l2p.evaluation.images import join_tiles
from l2p.evaluation.judgements import read_image
from l2p.evaluation.judges.base import UnjudgeableImage

MAX_SAMPLES = 6
MAX_WIDE_PX = 640
_SMALL_PX = 128  # up to this side, pixels are kept exactly
_WEBP_QUALITY = 82

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Picture:
    """An image inside a page. `full_px` is (width, height) of the file, which a judge's boxes refer to."""

    uri: str
    width_px: int
    height_px: int
    full_px: tuple[int, int]

    @property
    def small(self) -> bool:
        """Whether the pixels are exactly those of the file, so that a page should not smooth them."""
        return max(self.width_px, self.height_px) <= _SMALL_PX


@dataclass(frozen=True)
class TrainingSample:
    """What the pixel model drew at a step of its training."""

    step: int
    picture: Picture


def read_picture(paths: Sequence[Path], *, max_side_px: int) -> Picture | None:
    """Read image files into one picture, no larger than `max_side_px`; small ones lossless, others as WebP.

    Args:
        paths: of one image, or of images that are shown as a grid of two columns; those of another size than the
            first are scaled to it.
        max_side_px: longest side of the result.

    Returns:
        None when one of the files is missing or damaged.
    """
    try:
        images = [Image.fromarray(read_image(path)) for path in paths]
    except UnjudgeableImage:
        return None
    size = images[0].size
    image = Image.fromarray(
        join_tiles([np.asarray(tile if tile.size == size else tile.resize(size)) for tile in images])
    )
    return encode_picture(image, max_side_px=max_side_px)


def encode_picture(image: Image.Image, *, max_side_px: int) -> Picture:
    """The picture of an RGB image, which is scaled down in place."""
    full_px = image.size
    image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    small = max(image.size) <= _SMALL_PX
    buffer = io.BytesIO()
    image.save(
        buffer, format="PNG" if small else "WEBP", **({"optimize": True} if small else {"quality": _WEBP_QUALITY})
    )
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/{'png' if small else 'webp'};base64,{encoded}", image.width, image.height, full_px)


def locate_image(folder: Path, filename: str) -> Path:
    """Where an image of a run lies: in the run's folder, or wherever `filename` says."""
    inside = folder / filename
    return inside if inside.is_file() else Path(filename)


def training_samples(folder: Path = Layout.training / "samples") -> list[TrainingSample]:
    """At most six sample grids of the training, evenly spread from the first to the last."""
    files = spread(sorted(folder.glob("step-*.png")), MAX_SAMPLES)
    pictures = {file: read_picture([file], max_side_px=MAX_WIDE_PX) for file in files}
    return [
        TrainingSample(int(file.stem.split("-")[1]), picture)
        for file, picture in pictures.items()
        if picture is not None
    ]


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """`count` of `items`, evenly spread from the first to the last; all of them if there are no more."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
