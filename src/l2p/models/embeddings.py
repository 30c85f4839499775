"""Owns stored prompt embeddings: all prompts end to end in one safetensors file, with an index, read lazily.

The index has a row per prompt, and per tensor of an embedding its first row and its number of rows: a pooled vector has
one row where the caption has as many as tokens.
"""

from __future__ import annotations

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


def write_embeddings(
    folder: Path, prompt_ids: list[str], embeddings: list[PromptEmbedding], card: dict[str, Any]
) -> None:
    """Write one embedding per prompt id (tensors [L_i, ...], equal keys), atomically; `card` goes to report.json."""
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
    with atomic_path(folder / INDEX) as partial:
        index.to_parquet(partial, index=False)
    write_json(folder / REPORT, {**card, "count": len(index), "sha256": sha256_file(folder / TENSORS)})


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
        self.source_digest: str | None = read_json(folder / REPORT, written_by="l2p embed").get("source_digest")
        self._rows = {prompt_id: row for row, prompt_id in enumerate(index["prompt_id"])}
        self._file = safe_open(folder / TENSORS, framework="pt")
        keys = list(self._file.keys())
        if missing := [key for key in keys if f"start.{key}" not in index]:
            raise DataError(f"{folder / INDEX}: does not say where {missing[0]!r} lies. Run `l2p embed` again.")
        self._spans = {key: (index[f"start.{key}"].tolist(), index[f"length.{key}"].tolist()) for key in keys}

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
