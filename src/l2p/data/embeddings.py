"""Owns the computation of prompt embeddings, once per prompt set, so that training never loads the text encoder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from l2p.models.adapters import get_adapter
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.embeddings import EMPTY_PROMPT_ID, write_embeddings
from l2p.models.source import SourcePin, load_text_pipeline


def embed_prompts(prompts: pd.DataFrame, *, pin: SourcePin, folder: Path, batch_size: int, dtype: str) -> int:
    """Embed every prompt and the empty one with the source's own text encoder; returns their number.

    Args:
        prompts: columns prompt_id, text.
        pin: the source; verified first.
        folder: where the embeddings go.
        batch_size: prompts encoded at once.
        dtype: precision of the text encoder and of the stored embeddings.

    Raises:
        SourceError: the source differs from its pin.
    """
    ids = [EMPTY_PROMPT_ID, *prompts["prompt_id"]]
    texts = ["", *prompts["text"]]
    pipeline = load_text_pipeline(pin, dtype=dtype, device="cuda" if torch.cuda.is_available() else "cpu")
    adapter = get_adapter(pin.transformer_class)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index].split()))  # little padding in a batch
    found: dict[int, PromptEmbedding] = {}
    with tqdm(total=len(texts), desc="embedding", unit="prompt", disable=None) as progress:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            embeddings = adapter.encode(pipeline, [texts[index] for index in batch])
            found |= {index: _stored(embedding) for index, embedding in zip(batch, embeddings, strict=True)}
            progress.update(len(batch))
    card = {"source_digest": pin.digest, "dtype": dtype, "tokens": sum(_length(item) for item in found.values())}
    write_embeddings(folder, ids, [found[index] for index in range(len(ids))], card)
    return len(ids)


def _stored(embedding: PromptEmbedding) -> PromptEmbedding:
    return {key: value.cpu().clone() for key, value in embedding.items()}  # not a view of the padded batch


def _length(embedding: PromptEmbedding) -> int:
    return len(next(iter(embedding.values())))
