"""Owns writing a corpus as others read it: the same image files, and a table of captions in their layout."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from tqdm.auto import tqdm

from l2p.data.corpora.foreign import IMAGES
from l2p.data.corpora.placing import delete_others, find_whole, put_bytes, require_own
from l2p.errors import DataError
from l2p.files import atomic_path

Layout = Literal["official", "imagefolder"]
_FIRST = ("file_name", "text")


def export_corpus(table: pd.DataFrame, corpus: Path, out: Path, *, layout: Layout) -> Path:
    """Copy the images of `table` and write their table last; returns its path. An interrupted export goes on.

    Args:
        table: rows to export.
        corpus: folder of the images.
        out: folder to write: `official` has the images in `images` and metadata.csv beside it, `imagefolder` has
            metadata.jsonl among them.
        layout: which of the two.

    Raises:
        DataError: an image is missing or changed, or `out` holds something else.
    """
    name, write = _TABLES[layout]
    images = out / IMAGES if layout == "official" else out
    prefix = f"{IMAGES}/" if layout == "official" else ""
    planned = dict(zip(table["file_name"], table["sha256"], strict=True))
    whole = find_whole(images, planned) if images.is_dir() else set()
    if out.exists():
        placed = {prefix + found: planned[found] for found in whole}
        require_own(out, placed, {*placed, name}, advice="Choose another folder, or empty it.")
        (out / name).unlink(missing_ok=True)
        delete_others(out, set(placed))
    for found in tqdm([found for found in planned if found not in whole], desc="copying", unit="image", disable=None):
        path = corpus / found
        if not path.is_file():
            raise DataError(f"{path}: missing, but in the table. `l2p corpus verify` lists all such images.")
        put_bytes(images, found, path.read_bytes(), sha256=planned[found], origin=str(path))
    with atomic_path(out / name) as partial:
        write(partial, plain_rows(table))
    return out / name


def plain_rows(table: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """Rows as plain values with file name and caption first; what is unknown is None."""
    ordered = table[[*_FIRST, *(name for name in table.columns if name not in _FIRST)]]
    rows: list[dict[str, Any]] = ordered.astype(object).where(ordered.notna(), None).to_dict("records")  # type: ignore[assignment]
    return rows


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as stream:
        # every text is quoted, so that line ends in a caption survive
        writer = csv.DictWriter(stream, list(rows[0]), quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


_TABLES: dict[Layout, tuple[str, Callable[[Path, Iterable[dict[str, Any]]], None]]] = {
    "official": ("metadata.csv", _write_csv),
    "imagefolder": ("metadata.jsonl", _write_jsonl),
}
