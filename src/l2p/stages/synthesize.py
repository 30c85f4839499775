"""Stage `synthesize`: the source draws the corpus."""

from __future__ import annotations

from pathlib import Path

from l2p.config import Layout, Params, SynthesizeParams, ValidateParams
from l2p.config.validation import RULES
from l2p.data.corpora.importing import IMPORTED
from l2p.data.prompts import read_prompts
from l2p.data.synthesis import Check, Places, synthesize
from l2p.errors import DataError
from l2p.models.source import SourcePin


def run(params: Params) -> None:
    """Write `data/corpus` and `data/rejected`; what an interrupted run finished is kept, what others left is deleted.

    Raises:
        DataError: the corpus was imported, and drawing would delete it.
    """
    _keep_imported(Layout.corpus_table)
    pin = SourcePin.load(Layout.source)
    done = synthesize(
        read_prompts(Layout.prompts_table),
        params.synthesize,
        pin=pin,
        places=Places(Layout.corpus, Layout.embeddings, Layout.rejected),
        check=_check(params.synthesize, params.validation),
        check_settings=params.validation.model_dump(mode="json", include=check_fields()),
    )
    print(f"corpus of {done.drawn + done.kept} images: {done.drawn} drawn, {done.kept} kept{_redrawn(done.redrawn)}")
    if done.rejected:
        print(f"{Layout.rejected}: {done.rejected} images that were replaced, with reasons")


def check_fields() -> set[str]:
    """Fields of the section `validate` on which it depends whether an image is drawn again."""
    return {"severity", *(limit for rule in RULES.values() if rule.redrawable for limit in rule.limits)}


def _check(params: SynthesizeParams, limits: ValidateParams) -> Check | None:
    if not params.max_redraws:
        return None
    from l2p.data.checks import ImageCheck

    return ImageCheck(limits)


def _redrawn(count: int) -> str:
    return f", {count} drawn again with fresh seeds" if count else ""


def _keep_imported(table: Path) -> None:
    import pandas as pd

    if table.is_file() and (pd.read_parquet(table, columns=["source_digest"])["source_digest"] == IMPORTED).any():
        raise DataError(
            f"{table.parent}: holds images that were imported, and drawing would delete them. Freeze the stage "
            f"(`dvc freeze synthesize`) to train on them, or delete {table.parent} to draw a corpus."
        )
