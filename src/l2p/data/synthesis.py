"""Owns the drawing of the corpus by the source's own pipeline: one PNG per planned image, resumable to the image.

Image i belongs to prompt i // images_per_prompt and has seed `seed + i`, from which its own generator starts: it does
not depend on the other images of its batch, except that another batch may round differently (float arithmetic is not
associative). A resumed run forms the batches that were still to come, so it ends with the same bytes as one that was
never interrupted; only an image that was damaged later is redrawn in other company.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm

from l2p.config import SynthesizeParams
from l2p.data.corpus import COLUMNS, IMAGES_PER_SHARD
from l2p.data.journal import Row, append_journal, keep_finished, write_journal
from l2p.files import atomic_path
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.sampling import draw_images, encode_prompts
from l2p.models.source import SourcePin, load_source_pipeline


@dataclass(frozen=True)
class Synthesis:
    """What a run did: images drawn now, and images kept from before."""

    drawn: int
    kept: int


def synthesize(prompts: pd.DataFrame, params: SynthesizeParams, *, pin: SourcePin, table: Path) -> Synthesis:
    """Draw every planned image that is not there yet and write the corpus table.

    Args:
        prompts: columns prompt_id, text, style.
        params: how the source draws.
        pin: the source; verified before the first image is drawn.
        table: path of metadata.parquet; images go into numbered folders beside it, whatever else is there is deleted.

    Raises:
        SourceError: the source differs from its pin.
    """
    folder = table.parent
    plan = plan_images(prompts, params, pin.digest)
    digests = keep_finished(folder, plan)
    pending = [row for row in plan if row["file_name"] not in digests]
    if pending:
        pipeline = load_source_pipeline(pin, dtype=params.dtype, device="cuda" if torch.cuda.is_available() else "cpu")
        with tqdm(total=len(plan), initial=len(digests), desc="drawing", unit="image", disable=None) as progress:
            for batch in _draw_batches(pipeline, pending, params):
                digests |= _store_batch(folder, batch)
                progress.update(len(batch))
    _write_table(table, plan, digests)
    return Synthesis(drawn=len(pending), kept=len(plan) - len(pending))


def plan_images(prompts: pd.DataFrame, params: SynthesizeParams, source_digest: str) -> list[Row]:
    """One row per image, in the order of prompts: everything about it that is known before it is drawn."""
    common = params.model_dump(include={"height_px", "width_px", "num_steps", "guidance_scale", "dtype"})
    rows: list[Row] = []
    for prompt_id, text, style in zip(prompts["prompt_id"], prompts["text"], prompts["style"], strict=True):
        for _ in range(params.images_per_prompt):
            index = len(rows)
            name = f"{index // IMAGES_PER_SHARD:05d}/{index:06d}.png"
            known = {"file_name": name, "prompt_id": prompt_id, "text": text, "style": style}
            rows.append({**known, "seed": params.seed + index, "source_digest": source_digest, **common})
    return rows


def _draw_batches(
    pipeline: Any, pending: list[Row], params: SynthesizeParams
) -> Iterator[list[tuple[Row, np.ndarray]]]:
    """Draw in order of caption length, so that a batch is padded little; each prompt is encoded once.

    Images of one prompt are neighbours in that order, so an embedding is needed again at most by the next batch.
    """
    empty = encode_prompts(pipeline, [""])[0]
    known: dict[str, PromptEmbedding] = {}
    pending = sorted(pending, key=lambda row: (len(row["text"].split()), row["file_name"]))
    for start in range(0, len(pending), params.batch_size):
        rows = pending[start : start + params.batch_size]
        known = _encode(pipeline, [row["text"] for row in rows], known)
        images = draw_images(
            pipeline,
            [known[row["text"]] for row in rows],
            empty=empty,
            size_px=(params.height_px, params.width_px),
            num_steps=params.num_steps,
            guidance_scale=params.guidance_scale,
            seeds=[row["seed"] for row in rows],
        )
        yield list(zip(rows, images, strict=True))


def _encode(pipeline: Any, texts: list[str], known: dict[str, PromptEmbedding]) -> dict[str, PromptEmbedding]:
    """Embeddings of `texts` only, those in `known` taken over."""
    new = [text for text in dict.fromkeys(texts) if text not in known]
    found = known | dict(zip(new, encode_prompts(pipeline, new) if new else [], strict=True))
    return {text: found[text] for text in texts}


def _store_batch(folder: Path, batch: list[tuple[Row, np.ndarray]]) -> dict[str, str]:
    """Write the images, then the journal, so that the journal never names an image that is not whole."""
    digests = {row["file_name"]: write_png(folder / row["file_name"], image) for row, image in batch}
    append_journal(folder, [{**row, "sha256": digests[row["file_name"]]} for row, _ in batch])
    return digests


def write_png(path: Path, image: np.ndarray) -> str:
    """Write uint8 RGB [H, W, 3] as PNG, atomically; returns the SHA-256 of the file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _write_table(table: Path, plan: list[Row], digests: dict[str, str]) -> None:
    rows = [{**row, "sha256": digests[row["file_name"]]} for row in plan]
    write_journal(table.parent, rows)  # in the order of the table, however often the run was interrupted
    with atomic_path(table) as partial:
        pd.DataFrame(rows)[COLUMNS].to_parquet(partial, index=False)
