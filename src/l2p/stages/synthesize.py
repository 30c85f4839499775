"""Stage `synthesize`: the source draws the corpus."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.data.prompts import read_prompts
from l2p.data.synthesis import synthesize
from l2p.models.source import SourcePin


def run(params: Params) -> None:
    """Write `data/corpus`; what an interrupted run finished is kept, what other parameters left is deleted."""
    pin = SourcePin.load(Layout.source)
    done = synthesize(read_prompts(Layout.prompts_table), params.synthesize, pin=pin, table=Layout.corpus_table)
    print(f"corpus of {done.drawn + done.kept} images: {done.drawn} drawn, {done.kept} kept")
