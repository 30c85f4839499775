"""Owns the computation of prompt embeddings, once per prompt set, so that drawing and training load no text encoder.

An encoder rounds by batch. What was embedded before is therefore kept: adding prompts does not change the embeddings of
the others, nor the images that are drawn from them.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from l2p.errors import DataError, MissingFileError
from l2p.files import read_json, sha256_file
from l2p.models.adapters import get_adapter
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.embeddings import EMPTY_PROMPT_ID, REPORT, TENSORS, EmbeddingStore, write_embeddings
from l2p.models.source import SourcePin, load_text_pipeline


def embed_prompts(prompts: pd.DataFrame, *, pin: SourcePin, folder: Path, batch_size: int, dtype: str) -> int:
    """Embed every prompt and the empty one with the source's own text encoder; returns how many were not there yet.

    Args:
        prompts: columns prompt_id, text.
        pin: the source; verified before anything is embedded.
        folder: where the embeddings go.
        batch_size: prompts encoded at once.
        dtype: precision of the text encoder and of the stored embeddings.

    Raises:
        SourceError: the source differs from its pin.
    """
    ids = [EMPTY_PROMPT_ID, *prompts["prompt_id"]]
    texts = ["", *prompts["text"]]
    found = _stored_before(folder, ids, texts, pin=pin, dtype=dtype)
    missing = [index for index in range(len(ids)) if index not in found]
    if missing:
        found |= _encode(texts, missing, pin=pin, batch_size=batch_size, dtype=dtype)
    card = {"source_digest": pin.digest, "dtype": dtype, "tokens": sum(_length(item) for item in found.values())}
    write_embeddings(folder, ids, [found[index] for index in range(len(ids))], card, texts)
    return len(missing)


def _encode(
    texts: list[str], wanted: list[int], *, pin: SourcePin, batch_size: int, dtype: str
) -> dict[int, PromptEmbedding]:
    """Embeddings of the texts at the positions `wanted`, in order of length, so that a batch is padded little."""
    pipeline = load_text_pipeline(pin, dtype=dtype, device="cuda" if torch.cuda.is_available() else "cpu")
    adapter = get_adapter(pin.transformer_class)
    order = sorted(wanted, key=lambda index: len(texts[index].split()))
    found: dict[int, PromptEmbedding] = {}
    with tqdm(total=len(order), desc="embedding", unit="prompt", disable=None) as progress:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            embeddings = adapter.encode(pipeline, [texts[index] for index in batch])
            found |= {index: _stored(embedding) for index, embedding in zip(batch, embeddings, strict=True)}
            progress.update(len(batch))
    return found


def _stored_before(
    folder: Path, ids: list[str], texts: list[str], *, pin: SourcePin, dtype: str
) -> dict[int, PromptEmbedding]:
    """By position: those that an earlier run wrote whole, of the same source, precision and text."""
    try:
        store = EmbeddingStore(folder)
        whole = read_json(folder / REPORT, written_by="l2p embed").get("sha256") == sha256_file(folder / TENSORS)
    except (MissingFileError, DataError, OSError, ValueError, KeyError):
        return {}  # nothing, or what an interrupted run left: everything is embedded
    if not whole or (store.source_digest, store.dtype) != (pin.digest, dtype):
        return {}
    pairs = enumerate(zip(ids, texts, strict=True))
    return {index: store.get(name) for index, (name, text) in pairs if store.holds(name, text)}


def _stored(embedding: PromptEmbedding) -> PromptEmbedding:
    return {key: value.cpu().clone() for key, value in embedding.items()}  # not a view of the padded batch


def _length(embedding: PromptEmbedding) -> int:
    return len(next(iter(embedding.values())))
