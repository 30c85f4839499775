"""Owns drawing images of a corpus again, to prove that their rows say all that made them.

Float arithmetic rounds by batch, so the whole batch in which an image was drawn is drawn again: synthesis takes rows in
order of caption length and name, `batch_size` at a time (l2p.data.synthesis), and encodes a prompt with the batch in
which it appears first. This holds for a corpus that one set of parameters drew from empty to full, interruptions
included; an image that was redrawn alone later may differ by rounding, and is reported with the size of the difference.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from l2p.config import SynthesizeParams
from l2p.data.corpus import decode_image
from l2p.data.journal import read_journal
from l2p.data.synthesis import write_png
from l2p.errors import DataError
from l2p.files import sha256_file
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.sampling import draw_images, encode_prompts
from l2p.models.source import SourcePin, load_source_pipeline

SETTINGS = ("height_px", "width_px", "num_steps", "guidance_scale")

Row = dict[str, Any]


@dataclass(frozen=True)
class Redrawn:
    """One image, drawn again; `max_difference` of 255, 0 where all pixels are equal."""

    file_name: str
    identical: bool
    max_difference: int


def choose_names(table: pd.DataFrame, count: int, seed: int) -> list[str]:
    """File names of `count` random rows, all if there are fewer."""
    return sorted(random.Random(seed).sample(table["file_name"].tolist(), min(count, len(table))))


def redraw(
    table: pd.DataFrame, folder: Path, names: Sequence[str], *, params: SynthesizeParams, pin: SourcePin
) -> list[Redrawn]:
    """Draw the images `names` again in their batches and compare their files with those in `folder`.

    Raises:
        DataError: the pinned source did not draw them, or in another precision, or a batch has several settings.
        SourceError: the source differs from its pin.
    """
    _require_same_source(table, pin)
    _require_same_precision(folder, names, params)
    batches = form_batches(table, params.batch_size)
    wanted = [number for number, rows in enumerate(batches) if any(row["file_name"] in set(names) for row in rows)]
    pipeline = load_source_pipeline(pin, dtype=params.dtype, device="cuda" if torch.cuda.is_available() else "cpu")
    encoder = _Encoder(pipeline, batches)
    found: dict[str, Redrawn] = {}
    for number in tqdm(wanted, desc="redrawing", unit="batch", disable=None):
        rows = batches[number]
        images = _draw(pipeline, rows, encoder, number)
        for row, image in zip(rows, images, strict=True):
            if row["file_name"] in names:
                found[row["file_name"]] = _compare(row, folder, image)
    return [found[name] for name in names]


def form_batches(table: pd.DataFrame, batch_size: int) -> list[list[Row]]:
    """Batches in which an uninterrupted synthesis draws the rows of `table`."""
    rows: list[Row] = table.to_dict("records")  # type: ignore[assignment]
    rows.sort(key=lambda row: (len(row["text"].split()), row["file_name"]))
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


class _Encoder:
    """Prompt embeddings as synthesis computes them: with the batch that first needs them, kept for the next one."""

    def __init__(self, pipeline: Any, batches: list[list[Row]]) -> None:
        self._pipeline = pipeline
        self._texts = [list(dict.fromkeys(row["text"] for row in rows)) for rows in batches]
        self.empty = encode_prompts(pipeline, [""])[0]

    def embeddings(self, number: int) -> dict[str, PromptEmbedding]:
        """Of every prompt of a batch."""
        found: dict[str, PromptEmbedding] = {}
        for text in self._texts[number]:
            if text not in found:
                found |= self._encode_new(self._first(text, number))
        return found

    def _first(self, text: str, number: int) -> int:
        while number and text in self._texts[number - 1]:
            number -= 1
        return number

    def _encode_new(self, number: int) -> dict[str, PromptEmbedding]:
        """The prompts that a batch does not share with the one before it, encoded together."""
        before = self._texts[number - 1] if number else []
        new = [text for text in self._texts[number] if text not in before]
        return dict(zip(new, encode_prompts(self._pipeline, new), strict=True))


def _draw(pipeline: Any, rows: list[Row], encoder: _Encoder, number: int) -> np.ndarray:
    settings = {tuple(row[name] for name in SETTINGS) for row in rows}
    if len(settings) != 1:
        raise DataError(f"{rows[0]['file_name']}: its batch has images of several settings {sorted(settings)[:2]}.")
    (height, width, num_steps, guidance_scale) = settings.pop()
    known = encoder.embeddings(number)
    return draw_images(
        pipeline,
        [known[row["text"]] for row in rows],
        empty=encoder.empty,
        size_px=(int(height), int(width)),
        num_steps=int(num_steps),
        guidance_scale=float(guidance_scale),
        seeds=[int(row["seed"]) for row in rows],
    )


def _compare(row: Row, folder: Path, image: np.ndarray) -> Redrawn:
    name, promised = row["file_name"], row["sha256"]
    path = folder / name
    if not path.is_file() or sha256_file(path) != promised:
        raise DataError(f"{path}: missing or changed since it was drawn. `l2p corpus verify` lists all such images.")
    with tempfile.TemporaryDirectory() as scratch:
        digest = write_png(Path(scratch) / "redrawn.png", image)
    if digest == promised:
        return Redrawn(name, identical=True, max_difference=0)
    before = decode_image(path.read_bytes()).astype(np.int16)
    difference = int(np.abs(before - image).max()) if before.shape == image.shape else 255
    return Redrawn(name, identical=False, max_difference=difference)


def _require_same_source(table: pd.DataFrame, pin: SourcePin) -> None:
    others = [digest for digest in table["source_digest"].unique() if digest != pin.digest]
    if others:
        raise DataError(
            f"the corpus was drawn by source {str(others[0])[:12]}, the pinned one is {pin.digest[:12]}, so it cannot "
            "be redrawn. Pin that source with `l2p source`; images that were imported have none."
        )


def _require_same_precision(folder: Path, names: Sequence[str], params: SynthesizeParams) -> None:
    journal = read_journal(folder)
    found = {journal[name]["dtype"] for name in names if "dtype" in journal.get(name, {})}
    if found - {params.dtype}:
        raise DataError(
            f"{folder}: drawn in {found.pop()}, but synthesize.dtype is {params.dtype}. Set it back to redraw."
        )
