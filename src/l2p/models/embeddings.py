"""Owns stored prompt embeddings: all prompts end to end in one safetensors file, with an index, read lazily.

The index has a row per prompt, and per tensor of an embedding its first row and its number of rows: a pooled vector has
one row where the caption has as many as tokens.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from l2p.errors import DataError, MissingFileError
from l2p.files import atomic_path, read_json, sha256_file, write_json
from l2p.models.adapters.base import PromptEmbedding

TENSORS, INDEX, REPORT = "tokens.safetensors", "index.parquet", "report.json"
EMPTY_PROMPT_ID = ""
TEXT_DIGEST = "text_sha256"


def write_embeddings(
    folder: Path,
    prompt_ids: list[str],
    embeddings: list[PromptEmbedding],
    card: dict[str, Any],
    texts: list[str] | None = None,
) -> None:
    """Write one embedding per prompt id (tensors [L_i, ...], equal keys), atomically; `card` goes to report.json.

    With `texts` the index says by digest which text each embedding is of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = list(embeddings[0])
    joined = {key: torch.cat([embedding[key] for embedding in embeddings]).contiguous() for key in keys}
    with atomic_path(folder / TENSORS) as partial:
        save_file(joined, partial)
    index = pd.DataFrame({"prompt_id": prompt_ids})
    for key in keys:
        lengths = [len(embedding[key]) for embedding in embeddings]
        index[f"start.{key}"] = [0, *itertools.accumulate(lengths[:-1])]
        index[f"length.{key}"] = lengths
    if texts is not None:
        index[TEXT_DIGEST] = [text_digest(text) for text in texts]
    with atomic_path(folder / INDEX) as partial:
        index.to_parquet(partial, index=False)
    write_json(folder / REPORT, {**card, "count": len(index), "sha256": sha256_file(folder / TENSORS)})


def text_digest(text: str) -> str:
    """Hex SHA-256 of a prompt's UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()


class EmbeddingStore:
    """Reads one prompt's embedding at a time; the file is memory-mapped, never loaded whole."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`.

        Raises:
            MissingFileError: the stage `embed` has not run.
        """
        for name in (TENSORS, INDEX):
            if not (folder / name).is_file():
                raise MissingFileError(f"{folder / name}: not found. `l2p embed` writes it; run that first.")
        index = pd.read_parquet(folder / INDEX)
        self._folder = folder
        card = read_json(folder / REPORT, written_by="l2p embed")
        self.source_digest: str | None = card.get("source_digest")
        self.dtype: str | None = card.get("dtype")
        self._rows = {prompt_id: row for row, prompt_id in enumerate(index["prompt_id"])}
        self._texts = dict(zip(index["prompt_id"], index[TEXT_DIGEST], strict=True)) if TEXT_DIGEST in index else {}
        self._file = safe_open(folder / TENSORS, framework="pt")
        keys = list(self._file.keys())
        if missing := [key for key in keys if f"start.{key}" not in index]:
            raise DataError(f"{folder / INDEX}: does not say where {missing[0]!r} lies. Run `l2p embed` again.")
        self._spans = {key: (index[f"start.{key}"].tolist(), index[f"length.{key}"].tolist()) for key in keys}

    def holds(self, prompt_id: str, text: str) -> bool:
        """Whether `prompt_id` was embedded with this very text."""
        return self._texts.get(prompt_id) == text_digest(text)

    def get(self, prompt_id: str) -> PromptEmbedding:
        """Embedding of `prompt_id` ("" is the empty prompt), tensors [L, ...].

        Raises:
            DataError: this prompt was never embedded.
        """
        if prompt_id not in self._rows:
            raise DataError(
                f"{self._folder / INDEX}: no prompt {prompt_id!r}. Run `l2p embed` again after changing prompts."
            )
        row, found = self._rows[prompt_id], {}
        for key, (starts, lengths) in self._spans.items():
            found[key] = self._file.get_slice(key)[starts[row] : starts[row] + lengths[row]]
        return found
