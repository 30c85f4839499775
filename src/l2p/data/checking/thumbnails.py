"""Owns which rejected images the page shows, and how: a bounded number of them, as data URIs of bounded size."""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from l2p.data.checking.statistics import measure_pixels

MAX_THUMBNAILS = 200
SIDE_PX = 160
_EXACT_PX = 128  # up to this side, pixels are kept exactly
_WEBP_QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A rejected image with what is said of it; no `uri`: it cannot be shown."""

    name: str
    text: str
    reason: str
    detail: str
    uri: str | None
    exact: bool
    attempt: int | None = None


def choose(reasons: Sequence[str], most: int) -> list[int]:
    """Positions of at most `most` of the images, in order: every reason gets its turn, so that a rare one is seen."""
    by_reason: dict[str, list[int]] = defaultdict(list)
    for position, reason in enumerate(reasons):
        by_reason[reason].append(position)
    rounds = ((turn, positions[turn]) for positions in by_reason.values() for turn in range(len(positions)))
    return sorted(position for _, position in sorted(rounds)[:most])


def make_thumbnails(table: pd.DataFrame, folder: Path, *, most: int = MAX_THUMBNAILS) -> list[Thumbnail]:
    """Of rows with the columns file_name, text, reason, and if there detail, attempt; files are below `folder`."""
    chosen = table.iloc[choose(table["reason"].tolist(), most)]
    return [_thumbnail(row, folder) for _, row in chosen.iterrows()]


def count_reasons(table: pd.DataFrame) -> dict[str, int]:
    """How many images each reason has, the commonest first."""
    return dict(Counter(reason for reasons in table["reason"] for reason in str(reasons).split(", ")).most_common())


def _thumbnail(row: pd.Series, folder: Path) -> Thumbnail:
    allowed = isinstance(row["file_name"], str) and "file name refused" not in row["reason"]
    uri, exact = _encode(folder / row["file_name"]) if allowed else (None, False)
    attempt = int(row["attempt"]) if pd.notna(row.get("attempt")) else None
    text, reason, detail = (
        str(row[name]) if name in row and pd.notna(row[name]) else "" for name in ("text", "reason", "detail")
    )
    return Thumbnail(str(row["file_name"]), text, reason, detail, uri, exact, attempt)


def _encode(path: Path) -> tuple[str | None, bool]:
    _, pixels = measure_pixels(path)
    if pixels is None:
        return None, False
    image = Image.fromarray(pixels)
    exact = max(image.size) <= _EXACT_PX
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="WEBP", quality=_WEBP_QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{'png' if exact else 'webp'};base64,{encoded}", exact
