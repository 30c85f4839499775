"""Owns what is measured on one image file, whatever its state.

Pixel values are 0..255. `contrast` is the largest of the three channels' standard deviations over the image, so that
a canvas of one colour has contrast 0 whatever the colour. `clipped_share` counts channel values within one level of 0
or 255. `entropy_bits` is that of the grey levels. `smoothness` is the correlation of each pixel's grey level with its
right and lower neighbours: 0 for noise, 1 for a canvas of one colour.
"""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from l2p.data.checking.likeness import print_of

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_MEASURED = (
    "measured_sha256",
    "measured_height_px",
    "measured_width_px",
    "measured_format",
    "measured_mode",
    "mean",
    "contrast",
    "clipped_share",
    "entropy_bits",
    "smoothness",
    "print",
    "pixel_digest",
    "problem",
)
_LEVELS = np.arange(256)
_CLIPPED = [0, 1, 254, 255]

# What Pillow raises on damaged files; a broken PNG chunk is a SyntaxError.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def measure_image(path: Path | None) -> dict[str, Any]:
    """Measure one file that may be missing or damaged; see `measure_images` for the values."""
    return measure_pixels(path)[0]


def measure_pixels(path: Path | None) -> tuple[dict[str, Any], np.ndarray | None]:
    """`measure_image`, and the decoded image, uint8 RGB [H, W, 3], if there is one. None is a file not to be opened."""
    row: dict[str, Any] = dict.fromkeys(_MEASURED)
    row |= {"file_found": path is not None and path.is_file(), "decodable": False}
    if path is None or not row["file_found"]:
        return row, None
    try:
        content = path.read_bytes()
    except OSError as error:  # no permission, a broken disk
        return row | {"problem": " ".join(str(error).split())}, None
    row["measured_sha256"] = hashlib.sha256(content).hexdigest()
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            known = {"measured_format": opened.format, "measured_mode": opened.mode}
            image = opened.convert("RGB")
    except _DECODING_ERRORS as error:
        return row | {"problem": " ".join(str(error).split())}, None
    pixels_HW3 = np.asarray(image)
    return row | {"decodable": True} | known | _measure(image, pixels_HW3), pixels_HW3


def decode_image(content: bytes) -> np.ndarray:
    """Decode an image file as uint8 RGB [H, W, 3]; raises one of Pillow's errors if it is damaged."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return np.asarray(image.convert("RGB"))


def expected_format(file_name: str) -> str | None:
    """Pillow's name of the format that the suffix of `file_name` promises; None if it promises none of ours."""
    return FORMATS.get(PurePosixPath(file_name).suffix.lower())


def _measure(image: Image.Image, pixels_HW3: np.ndarray) -> dict[str, Any]:
    height, width, _ = pixels_HW3.shape
    digest = hashlib.sha256(f"{height}x{width}:".encode())
    digest.update(pixels_HW3.tobytes())
    gray = image.convert("L")
    counts_3L = np.array(image.histogram()).reshape(3, 256)
    total = height * width
    means = counts_3L @ _LEVELS / total
    variances = counts_3L @ _LEVELS**2 / total - means**2
    return {
        "measured_height_px": height,
        "measured_width_px": width,
        "mean": float(means.mean()),
        "contrast": float(np.sqrt(max(variances.max(), 0.0))),
        "clipped_share": float(counts_3L[:, _CLIPPED].sum() / (3 * total)),
        "entropy_bits": _entropy_bits(np.array(gray.histogram()) / total),
        "smoothness": _smoothness(np.asarray(gray)),
        "print": print_of(image),
        "pixel_digest": digest.hexdigest(),
    }


def _entropy_bits(shares: np.ndarray) -> float:
    present = shares[shares > 0]
    return float(max(-(present * np.log2(present)).sum(), 0.0))


def _smoothness(gray_HW: np.ndarray) -> float:
    """1 - D / 2V, with D the mean squared difference of neighbours and V the variance."""
    values = gray_HW.astype(np.float32)
    variance = float(values.var())
    steps = [np.square(np.diff(values, axis=axis)) for axis in (0, 1) if values.shape[axis] > 1]
    if variance == 0 or not steps:
        return 1.0
    return float(1 - np.mean([step.mean() for step in steps]) / (2 * variance))
