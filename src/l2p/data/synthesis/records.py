"""Owns the rows of the corpus table: what was planned, and how it was drawn."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from l2p.data.corpus import COLUMNS
from l2p.data.journal import Journal, Row, key_of
from l2p.data.synthesis.painter import device_text


def record(row: Row, journal: Journal) -> Row:
    """The row of the corpus table of a drawn image."""
    drawn = journal[key_of(row)]
    environment = drawn.environment
    return {
        **row,
        "sha256": drawn.sha256[row["file_name"]],
        "batch": drawn.batch,
        "batch_size": len(drawn.rows),
        "device": device_text(environment),
        "torch_version": environment["torch"],
        "diffusers_version": environment["diffusers"],
        "transformers_version": environment["transformers"],
        "l2p_version": environment["l2p"],
    }


def corpus_table(records: Iterable[Row], *more: str) -> pd.DataFrame:
    """Records as a table with the columns of the corpus, and `more`; types do not depend on the values."""
    table = pd.DataFrame(list(records), columns=[*COLUMNS, *more])
    numbers = ("repetition", "attempt", "seed", "height_px", "width_px", "num_steps", "batch_size")
    kinds = dict.fromkeys(numbers, "int64") | dict.fromkeys(("guidance_scale", "shift"), "float64")
    return table.astype(kinds | {name: "str" for name in table.columns if name not in kinds})
