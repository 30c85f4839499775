"""Stage `embed`: prompt embeddings by the source's text encoder."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.data.embeddings import embed_prompts
from l2p.data.prompts import read_prompts
from l2p.models.source import SourcePin


def run(params: Params) -> None:
    """Write `data/embeddings`, in the precision in which the source draws the corpus; what is there already is kept."""
    prompts = read_prompts(Layout.prompts_table)
    new = embed_prompts(
        prompts,
        pin=SourcePin.load(Layout.source),
        folder=Layout.embeddings,
        batch_size=params.embed.batch_size,
        dtype=params.synthesize.precision,
    )
    count = len(prompts) + 1
    kept = f", {count - new} kept from before" if new < count else ""
    print(f"{count} prompt embeddings, the empty prompt included{kept}")
