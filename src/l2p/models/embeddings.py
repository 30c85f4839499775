"""Owns stored prompt embeddings: all prompts end to end in one safetensors file, with an index, read lazily."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from l2p.errors import DataError, MissingFileError
from l2p.files import atomic_path, sha256_file, write_json
from l2p.models.adapters.base import PromptEmbedding

TENSORS, INDEX, REPORT = "tokens.safetensors", "index.parquet", "report.json"
EMPTY_PROMPT_ID = ""


def write_embeddings(
    folder: Path, prompt_ids: list[str], embeddings: list[PromptEmbedding], card: dict[str, Any]
) -> None:
    """Write one embedding per prompt id (tensors [L_i, ...], equal keys), atomically; `card` goes to report.json."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = list(embeddings[0])
    lengths = [len(embedding[keys[0]]) for embedding in embeddings]
    joined = {key: torch.cat([embedding[key] for embedding in embeddings]).contiguous() for key in keys}
    with atomic_path(folder / TENSORS) as partial:
        save_file(joined, partial)
    starts = [0, *itertools.accumulate(lengths[:-1])]
    index = pd.DataFrame({"prompt_id": prompt_ids, "start": starts, "length": lengths})
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
        ids, starts, lengths = (index[name].tolist() for name in ("prompt_id", "start", "length"))
        self._spans = {key: (start, start + length) for key, start, length in zip(ids, starts, lengths, strict=True)}
        self._file = safe_open(folder / TENSORS, framework="pt")

    def get(self, prompt_id: str) -> PromptEmbedding:
        """Embedding of `prompt_id` ("" is the empty prompt), tensors [L, ...].

        Raises:
            DataError: this prompt was never embedded.
        """
        if prompt_id not in self._spans:
            raise DataError(
                f"{self._folder / INDEX}: no prompt {prompt_id!r}. Run `l2p embed` again after changing prompts."
            )
        start, stop = self._spans[prompt_id]
        return {key: self._file.get_slice(key)[start:stop] for key in self._file.keys()}  # noqa: SIM118 (not a dict)
