"""Stage `synthesize`: the source draws the corpus."""

from __future__ import annotations

from pathlib import Path

from l2p.config import Layout, Params
from l2p.data.corpora.importing import IMPORTED
from l2p.data.prompts import read_prompts
from l2p.data.synthesis import synthesize
from l2p.errors import DataError
from l2p.models.source import SourcePin


def run(params: Params) -> None:
    """Write `data/corpus`; what an interrupted run finished is kept, what other parameters left is deleted.

    Raises:
        DataError: the corpus was imported, and drawing would delete it.
    """
    _keep_imported(Layout.corpus_table)
    pin = SourcePin.load(Layout.source)
    done = synthesize(read_prompts(Layout.prompts_table), params.synthesize, pin=pin, table=Layout.corpus_table)
    print(f"corpus of {done.drawn + done.kept} images: {done.drawn} drawn, {done.kept} kept")


def _keep_imported(table: Path) -> None:
    import pandas as pd

    if table.is_file() and (pd.read_parquet(table, columns=["source_digest"])["source_digest"] == IMPORTED).any():
        raise DataError(
            f"{table.parent}: holds images that were imported, and drawing would delete them. Freeze the stage "
            f"(`dvc freeze synthesize`) to train on them, or delete {table.parent} to draw a corpus."
        )
