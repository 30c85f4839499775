"""Owns one worker: it draws batches, writes their images and then a line of its own part of the journal.

Images of a batch are compressed and written while the next batch is drawn. The journal's line comes after the images,
so that it never names an image that is not whole.
"""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from l2p.data.journal import DrawnBatch, append_journal, part_of_journal
from l2p.data.synthesis.painter import Painter, SourceSettings
from l2p.data.synthesis.planning import Batch
from l2p.files import atomic_path
from l2p.models.embeddings import EmbeddingStore

NOT_FINITE = "not finite: the source put out values that are no numbers"


@dataclass(frozen=True)
class Job:
    """What every worker needs to know; can be sent to another process.

    Attributes:
        source: what draws.
        corpus: folder of the images.
        embeddings: folder of the prompt embeddings.
        threads: of the CPU; None: as many as torch takes by itself.
    """

    source: SourceSettings
    corpus: Path
    embeddings: Path
    threads: int | None

    def with_threads(self, threads: int) -> Job:
        """The same with this number of threads, at least one, unless a number is set already."""
        return self if self.threads is not None else replace(self, threads=max(1, threads))


class BatchWorker:
    """A loaded source and a part of the journal."""

    def __init__(self, job: Job, device: str, name: str) -> None:
        """Load the source; `name` is that of the part."""
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self._painter = Painter(job.source, device, EmbeddingStore(job.embeddings).get)
        self._corpus, self._part = job.corpus, part_of_journal(job.corpus, name)
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[DrawnBatch] | None = None

    def step(self, batch: Batch) -> list[DrawnBatch]:
        """Draw a batch; returns the one before it, which is now on disk."""
        pixels, embeddings = self._painter.draw(batch.rows)
        before = self.flush()
        environment = self._painter.environment()
        drawn = DrawnBatch(batch.digest, batch.rows, environment, embeddings, sha256={}, faults={})
        self._writing = self._writer.submit(self._store, batch, pixels, drawn)
        return before

    def flush(self) -> list[DrawnBatch]:
        """Wait for what is being written; returns it."""
        if self._writing is None:
            return []
        writing, self._writing = self._writing, None
        return [writing.result()]

    def close(self) -> None:
        """Wait for the last image."""
        self._writer.shutdown()

    def _store(self, batch: Batch, pixels: np.ndarray, drawn: DrawnBatch) -> DrawnBatch:
        for row, image in zip(batch.rows, pixels, strict=True):
            name = row["file_name"]
            if name in batch.wanted:
                if not np.isfinite(image).all():
                    drawn.faults[name] = NOT_FINITE
                drawn.sha256[name] = write_png(self._corpus / name, to_bytes(image))
        append_journal(self._part, drawn)
        return drawn


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Float [..., H, W, 3] in 0..1 -> uint8; what is not finite becomes black."""
    finite = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0)
    return np.asarray((finite * 255).round(), dtype=np.uint8)


def encode_png(image: np.ndarray) -> bytes:
    """The file of a uint8 RGB image [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: Path, image: np.ndarray) -> str:
    """Write uint8 RGB [H, W, 3] as PNG, atomically; returns the SHA-256 of the file."""
    content = encode_png(image)
    with atomic_path(path) as partial:
        partial.write_bytes(content)
    return hashlib.sha256(content).hexdigest()
