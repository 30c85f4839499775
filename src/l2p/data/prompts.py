"""Owns the prompt set: where prompts come from, that they differ from each other, and their table.

A prompt is identified by the first 12 hex digits of the SHA-256 of its text, whatever set it is in.
"""

from __future__ import annotations

import hashlib
import importlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from l2p.config import PromptsParams
from l2p.errors import DataError, MissingFileError
from l2p.files import atomic_path, sha256_json, write_json

PROVIDERS = {"shapes": "l2p.shapes.provider:prompts"}  # name -> "module:function" of (count, seed)
COLUMNS = ["prompt_id", "text", "style"]
REPORT = "report.json"
UNSTATED_STYLE = "unstated"

_TABLE_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {".parquet": pd.read_parquet, ".csv": pd.read_csv}


@dataclass(frozen=True)
class PromptSet:
    """Unique prompts (columns prompt_id, text, style) and what was left out while reading them."""

    table: pd.DataFrame
    num_blank: int = 0
    num_duplicates: int = 0
    num_available: int | None = None

    def report(self) -> dict[str, Any]:
        """Count, count by style, digest of the texts with their styles, and what was left out."""
        by_style = self.table["style"].value_counts().sort_index()
        return {
            "count": len(self.table),
            "by_style": {str(style): int(count) for style, count in by_style.items()},
            "sha256": sha256_json(self.table[["text", "style"]].to_numpy().tolist()),
            "available": self.num_available,
            "blank_lines_removed": self.num_blank,
            "duplicates_removed": self.num_duplicates,
        }


def prompt_id(text: str) -> str:
    """First 12 hex digits of the SHA-256 of the UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def draw_prompts(params: PromptsParams) -> PromptSet:
    """The prompt set that `params` describes; the same for equal parameters and files.

    Raises:
        MissingFileError: the prompt file is not there.
        DataError: a file without a `text` column, an empty file, or fewer prompts than `count`.
    """
    if params.provider == "file" and params.path is not None:
        return _draw_from_file(Path(params.path), params.count, params.seed)
    module, function = PROVIDERS[params.provider].split(":")
    provide = getattr(importlib.import_module(module), function)
    return PromptSet(_with_ids(pd.DataFrame(provide(params.count, params.seed), columns=["text", "style"])))


def write_prompts(prompts: PromptSet, table: Path) -> None:
    """Write the table as parquet and report.json beside it, atomically."""
    with atomic_path(table) as partial:
        prompts.table.to_parquet(partial, index=False)
    write_json(table.with_name(REPORT), prompts.report())


def read_prompts(table: Path) -> pd.DataFrame:
    """Read what `write_prompts` wrote.

    Raises:
        MissingFileError: the stage `prompts` has not run.
        DataError: columns are missing.
    """
    if not table.is_file():
        raise MissingFileError(f"{table}: not found. `l2p prompts` writes it; run that first.")
    prompts = pd.read_parquet(table)
    missing = [name for name in COLUMNS if name not in prompts.columns]
    if missing:
        raise DataError(f"{table}: no column {missing[0]!r}. Delete it and run `l2p prompts` again.")
    return prompts


def _draw_from_file(path: Path, count: int, seed: int) -> PromptSet:
    found = _read_file(path)
    found["text"] = found["text"].fillna("").astype(str).str.strip()
    filled = found[found["text"] != ""]
    unique = filled.drop_duplicates("text")
    if unique.empty:
        raise DataError(f"{path}: holds no prompt. Expected one prompt a line, or a table with a column `text`.")
    if len(unique) < count:
        raise DataError(
            f"{path}: holds {len(unique)} different prompts, but prompts.count = {count}. "
            "Lower prompts.count or add prompts."
        )
    kept = sorted(random.Random(seed).sample(range(len(unique)), count))
    table = _with_ids(unique.iloc[kept].reset_index(drop=True))
    return PromptSet(table, len(found) - len(filled), len(filled) - len(unique), len(unique))


def _read_file(path: Path) -> pd.DataFrame:
    """Columns text, style, of a table or of a text file with one prompt a line."""
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. prompts.path must name a text, CSV or parquet file of prompts.")
    reader = _TABLE_READERS.get(path.suffix.lower())
    try:
        found = reader(path) if reader else pd.DataFrame({"text": path.read_text(encoding="utf-8").splitlines()})
    except (OSError, ValueError) as error:  # pandas' and pyarrow's reading errors derive from these
        raise DataError(
            f"{path}: cannot be read ({' '.join(str(error).split())}). Is it a text, CSV or parquet file?"
        ) from error
    if "text" not in found.columns:
        columns = ", ".join(map(str, found.columns))
        raise DataError(f"{path}: no column `text`; it has: {columns}. Rename the column that holds the prompts.")
    if "style" not in found.columns:
        found["style"] = UNSTATED_STYLE
    return found[["text", "style"]].copy()


def _with_ids(table: pd.DataFrame) -> pd.DataFrame:
    table = table.assign(prompt_id=[prompt_id(text) for text in table["text"]])[COLUMNS]
    shared = table[table["prompt_id"].duplicated(keep=False)]
    if not shared.empty:
        raise DataError(
            f"two prompts share the id {shared['prompt_id'].iloc[0]}: {shared['text'].tolist()[:2]}. Remove one."
        )
    return table
