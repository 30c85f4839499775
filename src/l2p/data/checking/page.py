"""Owns the result page of the stage `validate`: one file that loads nothing from a network and grows with no corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from l2p import pages
from l2p.config import ValidateParams
from l2p.data.checking.figures import class_bars, histograms
from l2p.data.checking.thumbnails import MAX_THUMBNAILS, count_reasons, make_thumbnails
from l2p.data.validation import Validation
from l2p.errors import DataError

TABLE = "metadata.parquet"
_REDRAWN_COLUMNS = ("file_name", "text", "reason", "attempt")


def write_page(validation: Validation, limits: ValidateParams, *, corpus: Path, rejected: Path, path: Path) -> None:
    """Write the page.

    Args:
        validation: what it shows.
        limits: what was asked for.
        corpus: folder of the images.
        rejected: folder of the images that synthesis rejected and drew again, with a table of them; may be missing.
        path: of the page.

    Raises:
        DataError: the table of the images that were drawn again is damaged.
    """
    redrawn = read_redrawn(rejected)
    kept = validation.quarantine
    content = {
        "result": validation.result,
        "limits": limits,
        "entries": validation.result["expectations"],
        "histograms": histograms(validation.frame, limits),
        "classes": class_bars(validation.result["classes"]),
        "num_classes": len(validation.result["classes"]),
        "quarantine": _gallery(kept, corpus, MAX_THUMBNAILS if redrawn.empty else MAX_THUMBNAILS // 2),
        "redrawn": _gallery(redrawn, rejected, MAX_THUMBNAILS // 2),
    }
    pages.write_page(
        "l2p.data.checking",
        "validation.html.j2",
        content,
        path,
        count=lambda number: f"{number:,}",
        percent=lambda share: f"{100 * share:.1f} %",
    )


def read_redrawn(folder: Path) -> pd.DataFrame:
    """Rows of the images that were rejected while the corpus was drawn; none where there is no table.

    Raises:
        DataError: it is damaged.
    """
    table = folder / TABLE
    if not table.is_file():
        return pd.DataFrame(columns=list(_REDRAWN_COLUMNS))
    try:
        rows = pd.read_parquet(table)
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{table}: not a parquet file ({problem}). Run `l2p synthesize` again.") from error
    missing = [name for name in _REDRAWN_COLUMNS if name not in rows.columns]
    if missing:
        raise DataError(f"{table}: no column {missing[0]!r}. Run `l2p synthesize` again.")
    return rows.reset_index(drop=True)


def _gallery(table: pd.DataFrame, folder: Path, most: int) -> dict[str, Any]:
    shown = make_thumbnails(table, folder, most=most)
    return {"images": shown, "total": len(table), "hidden": len(table) - len(shown), "reasons": count_reasons(table)}
