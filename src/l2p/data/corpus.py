"""Owns reading the corpus: its table, and what is measured on its images, whatever their state.

Pixel values are 0..255. `contrast` is the largest of the three channels' standard deviations over the image, so that
a canvas of one colour has contrast 0 whatever the colour.
"""

from __future__ import annotations

import hashlib
import io
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from l2p.errors import DataError, MissingFileError

COLUMNS = [
    "file_name",
    "prompt_id",
    "text",
    "style",
    "seed",
    "sha256",
    "height_px",
    "width_px",
    "num_steps",
    "guidance_scale",
    "source_digest",
]
IMAGES_PER_SHARD = 1000
THREADS = 2

# What Pillow raises on damaged files; a broken PNG chunk is a SyntaxError.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_table(path: Path, *, written_by: str = "l2p synthesize") -> pd.DataFrame:
    """Read a corpus table (metadata.parquet, or the accepted or quarantined rows of it).

    Raises:
        MissingFileError: `written_by` has not run.
        DataError: not a parquet file, no rows, or a column is missing.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. `{written_by}` writes it; run that first.")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a parquet file ({' '.join(str(error).split())}). Run `{written_by}` again."
        ) from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; expected {', '.join(COLUMNS)}. Run `{written_by}` again.")
    if table.empty:
        raise DataError(f"{path}: no rows. Run `{written_by}` again.")
    return table


def measure_images(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Measure the image of every row of `table`; one row each, in the same order.

    Returns:
        Columns file_found, decodable (booleans); measured_sha256; measured_height_px, measured_width_px; mean, contrast
        (0..255); pixel_digest; problem (why an image is not decodable); duplicate_of (file name of the image with the
        very same pixels that counts as the original). Values that could not be measured are null.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        measured = pool.map(measure_image, (folder / name for name in table["file_name"]))
        rows = list(tqdm(measured, total=len(table), desc="measuring", unit="image", disable=None))
    originals = pd.Series(_originals(table, rows), index=table.index, dtype=object)
    return pd.DataFrame(rows, index=table.index).assign(duplicate_of=originals)


def measure_image(path: Path) -> dict[str, Any]:
    """Measure one file that may be missing or damaged."""
    row: dict[str, Any] = dict.fromkeys(
        ("measured_sha256", "measured_height_px", "measured_width_px", "mean", "contrast", "pixel_digest", "problem")
    )
    row |= {"file_found": path.is_file(), "decodable": False}
    if not row["file_found"]:
        return row
    content = path.read_bytes()
    row["measured_sha256"] = hashlib.sha256(content).hexdigest()
    try:
        pixels_HW3 = decode_image(content)
    except _DECODING_ERRORS as error:
        return row | {"problem": " ".join(str(error).split())}
    height, width, _ = pixels_HW3.shape
    digest = hashlib.sha256(f"{height}x{width}:".encode() + pixels_HW3.tobytes()).hexdigest()
    size = {"measured_height_px": height, "measured_width_px": width}
    values = {"mean": float(pixels_HW3.mean()), "contrast": float(pixels_HW3.std(axis=(0, 1)).max())}
    return row | {"decodable": True, "pixel_digest": digest} | size | values


def decode_image(content: bytes) -> np.ndarray:
    """Decode an image file as uint8 RGB [H, W, 3]; raises one of Pillow's errors if it is damaged."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return np.asarray(image.convert("RGB"))


def _originals(table: pd.DataFrame, measured: list[dict[str, Any]]) -> list[str | None]:
    """For every row with the pixels of another: that other's file name, unless the row itself is the original.

    The original is the first one whose bytes are those the table promises, so that a file copied over another one does
    not take its source's place.
    """
    names, promised = table["file_name"].tolist(), table["sha256"].tolist()
    positions = range(len(names))
    intact_first = sorted(positions, key=lambda position: measured[position]["measured_sha256"] != promised[position])
    original: dict[str, int] = {}
    for position in intact_first:
        original.setdefault(measured[position]["pixel_digest"], position)
    return [
        None
        if row["pixel_digest"] is None or original[row["pixel_digest"]] == position
        else names[original[row["pixel_digest"]]]
        for position, row in enumerate(measured)
    ]
