"""Owns reading the corpus: its table, and measuring all its images in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from l2p.data.checking.judges import PixelJudge
from l2p.data.checking.statistics import decode_image, measure_image, measure_pixels
from l2p.errors import DataError, MissingFileError

__all__ = ["COLUMNS", "IMAGES_PER_SHARD", "decode_image", "measure_image", "measure_images", "read_table"]

COLUMNS = [
    "file_name",
    "prompt_id",
    "text",
    "style",
    "repetition",
    "attempt",
    "seed",
    "sha256",
    "height_px",
    "width_px",
    "num_steps",
    "guidance_scale",
    "shift",
    "dtype",
    "source_digest",
    "batch",
    "batch_size",
    "device",
    "torch_version",
    "diffusers_version",
    "transformers_version",
    "l2p_version",
]
IMAGES_PER_SHARD = 1000
THREADS = 2
BATCH_SIZE = 64  # images that are decoded at once where nobody says otherwise


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
        Columns file_found, decodable (booleans); measured_sha256, measured_height_px, measured_width_px,
        measured_format, measured_mode; mean, contrast, clipped_share, entropy_bits, smoothness, print (see
        `l2p.data.checking`); pixel_digest; problem (why an image is not decodable);
        duplicate_of (file name of the image with the very same pixels that counts as the original). Values that could
        not be measured are null.
    """
    measured = pd.DataFrame(measure_rows(table, folder), index=table.index)
    return measured.assign(duplicate_of=find_duplicates(table, measured))


def measure_rows(
    table: pd.DataFrame,
    folder: Path,
    *,
    judges: Mapping[str, PixelJudge] | None = None,
    batch_size: int = BATCH_SIZE,
) -> list[dict[str, Any]]:
    """Measure the image of every row, and ask the judges about those that can be decoded.

    Args:
        table: column file_name (null: a file that must not be opened), for judges also text.
        folder: where the files are.
        judges: by the name of their rule; what each doubts becomes the value NAME_doubt.
        batch_size: images in memory at once, for judges.
    """
    rows: list[dict[str, Any]] = []
    bar = tqdm(total=len(table), desc="measuring", unit="image", disable=None)
    with ThreadPoolExecutor(THREADS) as pool, bar:
        for part in _parts(table, batch_size):
            paths = [folder / name if isinstance(name, str) else None for name in part["file_name"]]
            if judges:
                rows += _judged(list(pool.map(measure_pixels, paths)), part, judges)
            else:
                rows += pool.map(measure_image, paths)  # no need of pixels, which may be large
            bar.update(len(part))
    return rows


def _parts(table: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    for start in range(0, len(table), size):
        yield table.iloc[start : start + size]


def _judged(
    measured: list[tuple[dict[str, Any], np.ndarray | None]], part: pd.DataFrame, judges: Mapping[str, PixelJudge]
) -> list[dict[str, Any]]:
    """The measured rows, with what each judge doubts."""
    rows = [row for row, _ in measured]
    seen = [(place, pixels) for place, (_, pixels) in enumerate(measured) if pixels is not None]
    for name, judge in judges.items():
        texts = part["text"].tolist()
        known = [(place, pixels) for place, pixels in seen if isinstance(texts[place], str)]
        doubts = judge.doubts([pixels for _, pixels in known], [texts[place] for place, _ in known]) if known else []
        by_place = dict(zip((place for place, _ in known), doubts, strict=True))
        for place, row in enumerate(rows):
            row[f"{name}_doubt"] = by_place.get(place)
    return rows


def find_duplicates(table: pd.DataFrame, measured: pd.DataFrame) -> pd.Series:
    """For every row with the pixels of another: that other's file name, unless the row itself is the original.

    The original is the first one whose bytes are those the table promises, so that a file copied over another one does
    not take its source's place.
    """
    names, digests = table["file_name"].tolist(), measured["pixel_digest"].tolist()
    altered = (measured["measured_sha256"] != table["sha256"]).tolist()
    original: dict[str, int] = {}
    for position in sorted(range(len(names)), key=altered.__getitem__):
        if isinstance(digests[position], str):
            original.setdefault(digests[position], position)
    found = [
        None if not isinstance(digest, str) or original[digest] == position else names[original[digest]]
        for position, digest in enumerate(digests)
    ]
    return pd.Series(found, index=table.index, dtype=object)
