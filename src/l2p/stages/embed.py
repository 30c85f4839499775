"""Stage `embed`: prompt embeddings by the source's text encoder."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.data.embeddings import embed_prompts
from l2p.data.prompts import read_prompts
from l2p.models.source import SourcePin


def run(params: Params) -> None:
    """Write `data/embeddings`, in the precision in which the source drew the corpus."""
    count = embed_prompts(
        read_prompts(Layout.prompts_table),
        pin=SourcePin.load(Layout.source),
        folder=Layout.embeddings,
        batch_size=params.embed.batch_size,
        dtype=params.synthesize.dtype,
    )
    print(f"{count} prompt embeddings, the empty prompt included")
