"""Owns drawing images of a corpus again, to prove that their rows say all that made them.

Float arithmetic rounds by batch, so the whole batch in which an image was drawn is drawn again. The journal names its
members in order, also those that are gone from the corpus since: they were rejected, or their prompts were removed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from l2p.data.corpus import decode_image
from l2p.data.journal import IDENTITY, JOURNAL, DrawnBatch, Row, key_of, read_journal
from l2p.data.synthesis.painter import Painter, SourceSettings, default_device, device_text
from l2p.data.synthesis.worker import encode_png, to_bytes
from l2p.errors import DataError, MissingFileError
from l2p.files import sha256_file
from l2p.models.adapters import get_adapter
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.embeddings import EMPTY_PROMPT_ID, EmbeddingStore
from l2p.models.source import SourcePin, load_text_pipeline

_VERSIONS = ("torch", "diffusers", "transformers", "l2p")


@dataclass(frozen=True)
class Redrawn:
    """One image, drawn again.

    Attributes:
        file_name: in the corpus.
        identical: whether the file has the same bytes.
        max_difference: of 255, 0 where all pixels are equal.
        reasons: what is not as it was when the image was drawn.
    """

    file_name: str
    identical: bool
    max_difference: int
    reasons: tuple[str, ...]


def choose_names(table: pd.DataFrame, count: int, seed: int) -> list[str]:
    """File names of `count` random rows, all if there are fewer."""
    return sorted(random.Random(seed).sample(table["file_name"].tolist(), min(count, len(table))))


def redraw(
    table: pd.DataFrame, folder: Path, names: Sequence[str], *, embeddings: Path, pin: SourcePin
) -> list[Redrawn]:
    """Draw the images `names` again in their batches and compare their files with those in `folder`.

    Args:
        table: of the corpus.
        folder: of the corpus.
        names: of images.
        embeddings: folder of the prompt embeddings; what it lacks is encoded anew.
        pin: the source.

    Raises:
        DataError: the pinned source did not draw them, the journal does not know them, or a file is not as it was.
        SourceError: the source differs from its pin.
    """
    _require_same_source(table, pin)
    rows = {row["file_name"]: row for row in _plain(table)}
    redrawer = _Redrawer(pin, embeddings)
    found: dict[str, Redrawn] = {}
    batches = _batches(folder, [rows[name] for name in names])
    for drawn, members in tqdm(batches, desc="redrawing", unit="batch", disable=None):
        images, reasons = redrawer.draw(drawn, {name: rows[name] for name in members})
        for row, image in zip(drawn.rows, images, strict=True):
            name = row["file_name"]
            if name in members:
                found[name] = _compare(
                    folder / name, rows[name]["sha256"], image, (*_edited(rows[name], row), *reasons)
                )
    return [replace(found[name], file_name=name) for name in names]


def _plain(table: pd.DataFrame) -> list[Row]:
    """Rows with None for what is unknown."""
    rows: list[Row] = table.astype(object).where(table.notna(), None).to_dict("records")  # type: ignore[assignment]
    return rows


def _batches(folder: Path, rows: Sequence[Row]) -> list[tuple[DrawnBatch, list[str]]]:
    """Every batch to draw, as the journal has it, with the names of the images wanted of it."""
    journal = read_journal(folder)
    found: dict[int, tuple[DrawnBatch, list[str]]] = {}
    for row in rows:
        name, drawn = row["file_name"], journal.get(key_of(row))
        if drawn is None or drawn.sha256[name] != row["sha256"]:
            raise DataError(
                f"{folder / JOURNAL}: does not say in which batch {name} was drawn, so it cannot be redrawn. It "
                "belongs to the corpus: restore it together with the table."
            )
        path = folder / name
        if not path.is_file() or sha256_file(path) != row["sha256"]:
            raise DataError(
                f"{path}: missing or changed since it was drawn. `l2p corpus verify` lists all such images."
            )
        found.setdefault(id(drawn), (drawn, []))[1].append(name)
    return list(found.values())


class _Redrawer:
    """Draws batches again with the threads they had; the source is loaded anew where a batch had other settings."""

    def __init__(self, pin: SourcePin, embeddings: Path) -> None:
        self._pin, self._folder = pin, embeddings
        self._settings: SourceSettings | None = None
        self._painter: Painter | None = None
        self._texts: dict[str, str] = {EMPTY_PROMPT_ID: ""}
        self._store: EmbeddingStore | None = None
        self._encoded: dict[str, PromptEmbedding] = {}

    def draw(self, drawn: DrawnBatch, said: Mapping[str, Row]) -> tuple[np.ndarray, list[str]]:
        """Images of a batch, those in `said` by what these rows say of them, and what is not as it was."""
        rows = [{**row, **{key: said.get(row["file_name"], row)[key] for key in IDENTITY}} for row in drawn.rows]
        first, then = rows[0], drawn.environment
        settings = SourceSettings(self._pin, first["dtype"], first["shift"], then["compiled"])
        self._texts |= {row["prompt_id"]: row["text"] for row in rows}
        if self._painter is None or settings != self._settings:
            self._settings, self._store, self._encoded = settings, self._open(first["dtype"]), {}
            self._painter = Painter(settings, default_device(), self._embedding)
        with _threads(then["threads"]):
            pixels, digest = self._painter.draw(rows)
            now = self._painter.environment()
        reasons = [f"{name} {then[name]} then, {now[name]} now" for name in _VERSIONS if then[name] != now[name]]
        if device_text(then) != device_text(now):
            reasons.append(f"on {device_text(then)} then, on {device_text(now)} now")
        if digest != drawn.embeddings:
            reasons.append("prompt embeddings of its batch were other ones then")
        return np.stack([to_bytes(image) for image in pixels]), reasons

    def _open(self, dtype: str) -> EmbeddingStore | None:
        try:
            store = EmbeddingStore(self._folder)
        except MissingFileError:
            return None
        return store if (store.source_digest, store.dtype) == (self._pin.digest, dtype) else None

    def _embedding(self, prompt_id: str) -> PromptEmbedding:
        text = self._texts[prompt_id]
        if self._store is not None and self._store.holds(prompt_id, text):
            return self._store.get(prompt_id)
        if prompt_id not in self._encoded:
            assert self._settings is not None
            pipeline = load_text_pipeline(self._pin, dtype=self._settings.dtype, device=default_device())
            (embedding,) = get_adapter(self._pin.transformer_class).encode(pipeline, [text])
            self._encoded[prompt_id] = {key: value.cpu() for key, value in embedding.items()}
        return self._encoded[prompt_id]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """As many threads as there were; None: those there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _edited(said: Row, drawn: Row) -> list[str]:
    """What the corpus table says otherwise than the journal."""
    return [
        f"{name} was {drawn[name]!r}, the table says {said[name]!r}" for name in IDENTITY if said[name] != drawn[name]
    ]


def _compare(path: Path, promised: str, image: np.ndarray, reasons: tuple[str, ...]) -> Redrawn:
    if hashlib.sha256(encode_png(image)).hexdigest() == promised:
        return Redrawn(path.name, identical=True, max_difference=0, reasons=())
    before = decode_image(path.read_bytes()).astype(np.int16)
    difference = int(np.abs(before - image).max()) if before.shape == image.shape else 255
    return Redrawn(path.name, identical=False, max_difference=difference, reasons=reasons)


def _require_same_source(table: pd.DataFrame, pin: SourcePin) -> None:
    others = [digest for digest in table["source_digest"].unique() if digest != pin.digest]
    if others:
        raise DataError(
            f"the corpus was drawn by source {str(others[0])[:12]}, the pinned one is {pin.digest[:12]}, so it cannot "
            "be redrawn. Pin that source with `l2p source`; images that were imported have none."
        )
