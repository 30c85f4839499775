"""Owns what a step trains on: which images of the accepted corpus, with which noise, noise level and prompt.

All of it follows from (seed, step, position in the global batch), so the number of processes, micro batches and
interruptions change nothing. Pixels in [-1, 1], sigma in [0, 1] with 1 = noise (decision 0001).
"""

# B batch, C channels, H W pixels

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from l2p.config import Layout, TrainParams
from l2p.diffusion.timesteps import draw_sigma
from l2p.errors import DataError, MissingFileError
from l2p.files import require_below
from l2p.models.adapters.base import PromptEmbedding, to_device
from l2p.models.embeddings import EMPTY_PROMPT_ID, EmbeddingStore
from l2p.training.order import Order, Size
from l2p.training.state import Draw, random_source

MEMORY_BUDGET_BYTES = 512 << 20  # a corpus whose decoded pixels fit is read once
CHANNELS = 3
_COLUMNS = ["file_name", "prompt_id", "sha256", "height_px", "width_px", "seed"]
_DECODERS = 4  # threads; PIL lets others run while it decodes


class Corpus:
    """The accepted images of a manifest, decoded when asked for, kept if all of them fit into memory."""

    def __init__(self, manifest: Path, folder: Path, *, budget_bytes: int = MEMORY_BUDGET_BYTES) -> None:
        """Read the manifest's table.

        Raises:
            MissingFileError: no manifest.
            DataError: it is damaged or empty.
        """
        rows, self._folder = _read_manifest(manifest), folder
        self.sizes: list[Size] = list(zip(rows.height_px.tolist(), rows.width_px.tolist(), strict=True))
        self._names: list[str] = rows.file_name.tolist()
        self._digests: list[str] = rows.sha256.tolist()
        self.prompt_ids: list[str] = rows.prompt_id.tolist()
        self.seeds: list[int] = rows.seed.tolist()
        fits = CHANNELS * sum(height * width for height, width in self.sizes) <= budget_bytes
        self._kept: dict[int, Tensor] | None = {} if fits else None

    def __len__(self) -> int:
        """Number of images."""
        return len(self._names)

    def name(self, row: int) -> str:
        """File name of an image, relative to the corpus."""
        return self._names[row]

    def image(self, row: int) -> Tensor:
        """Image [3, H, W], uint8.

        Raises:
            DataError: it is missing, damaged, or not the one that was accepted.
        """
        if self._kept is not None and row in self._kept:
            return self._kept[row]
        pixels = self._decode(row)
        if self._kept is not None:
            self._kept[row] = pixels
        return pixels

    def _decode(self, row: int) -> Tensor:
        path, data = self._folder / self._names[row], self._read(row)
        try:
            image = Image.open(io.BytesIO(data)).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: damaged image ({error}). Run `l2p validate` to quarantine it.") from error
        if (image.height, image.width) != self.sizes[row]:
            height, width = self.sizes[row]
            raise DataError(
                f"{path}: {image.width}x{image.height} pixels, accepted as {width}x{height}. Run `l2p validate`."
            )
        self._check_digest(row, data)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def check_files(self) -> None:
        """Read every file once, before a training spends hours on the others.

        Raises:
            DataError: one is missing or not the one that was accepted; names the first and says how many there are.
        """
        with ThreadPoolExecutor(_DECODERS) as workers:
            problems = [problem for problem in workers.map(self._problem, range(len(self))) if problem is not None]
        if problems:
            more = f" ({len(problems)} of {len(self)} images are like this.)" if len(problems) > 1 else ""
            raise DataError(f"{problems[0]}{more}")

    def _problem(self, row: int) -> str | None:
        try:
            self._check_digest(row, self._read(row))
        except DataError as error:
            return str(error)
        return None

    def _read(self, row: int) -> bytes:
        path = self._folder / self._names[row]
        if not path.is_file():
            raise DataError(f"{path}: missing, but accepted. Run `l2p synthesize`, then `l2p validate`.")
        return path.read_bytes()

    def _check_digest(self, row: int, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != self._digests[row]:
            path = self._folder / self._names[row]
            raise DataError(f"{path}: changed since it was accepted (its sha256 is another). Run `l2p validate`.")


@dataclass(frozen=True)
class Batch:
    """Samples of one step or of a part of it."""

    x0_BCHW: Tensor
    noise_BCHW: Tensor
    sigma_B: Tensor
    embeddings: list[PromptEmbedding]
    prompt_ids: list[str]
    rows: list[int]

    def part(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop`."""
        return Batch(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    def to(self, device: torch.device) -> Batch:
        """With its tensors on `device`."""
        return replace(
            self,
            x0_BCHW=self.x0_BCHW.to(device),
            noise_BCHW=self.noise_BCHW.to(device),
            sigma_B=self.sigma_B.to(device),
            embeddings=[to_device(text, device, torch.float32) for text in self.embeddings],
        )


class Samples:
    """Draws the batches of one process."""

    def __init__(
        self,
        corpus: Corpus,
        embeddings: EmbeddingStore,
        train: TrainParams,
        *,
        rows: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Process `rank` of `world_size` gets its consecutive part of each global batch of the given rows (all).

        Raises:
            DataError: a size has fewer images than one step takes.
        """
        self._corpus, self._embeddings, self._train = corpus, embeddings, train
        chosen = range(len(corpus)) if rows is None else rows
        self._order = Order(chosen, corpus.sizes, batch_size=train.batch_size, seed=train.seed)
        share = train.batch_size // world_size
        self._mine = range(rank * share, (rank + 1) * share)
        self._decoders = ThreadPoolExecutor(_DECODERS)

    def batch(self, step: int) -> Batch:
        """This process's samples of step `step`."""
        train, random = self._train, random_source(self._train.seed, Draw.STEP, step)
        sigma = draw_sigma(train.timesteps, train.batch_size, shift=train.shift, generator=random)
        dropped = torch.rand(train.batch_size, generator=random) < train.caption_dropout
        flipped = torch.rand(train.batch_size, generator=random) < train.horizontal_flip
        everyone = self._order.rows(step)
        rows = [everyone[sample] for sample in self._mine]
        prompt_ids = [
            EMPTY_PROMPT_ID if dropped[sample] else self._corpus.prompt_ids[row]
            for sample, row in zip(self._mine, rows, strict=True)
        ]
        images = list(self._decoders.map(self._corpus.image, rows))
        images = [
            image.flip(-1) if flipped[sample] else image for sample, image in zip(self._mine, images, strict=True)
        ]
        return Batch(
            x0_BCHW=to_unit_range(torch.stack(images)),
            noise_BCHW=torch.stack(
                [self._noise(step, sample, image) for sample, image in zip(self._mine, images, strict=True)]
            ),
            sigma_B=sigma[self._mine.start : self._mine.stop],
            embeddings=[self._embeddings.get(prompt_id) for prompt_id in prompt_ids],
            prompt_ids=prompt_ids,
            rows=rows,
        )

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of the steps `start` to `stop`, each prepared while the one before it is trained on."""
        if start == stop:
            return
        with ThreadPoolExecutor(1) as worker:
            coming = worker.submit(self.batch, start)
            for step in range(start, stop):
                batch = coming.result()
                if step + 1 < stop:
                    coming = worker.submit(self.batch, step + 1)
                yield batch

    def _noise(self, step: int, sample: int, image: Tensor) -> Tensor:
        generator = random_source(self._train.seed, Draw.NOISE, step, sample)
        return torch.randn(image.shape, generator=generator)


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 pixels in -1..1, float32."""
    return pixels.float() / 127.5 - 1


def _read_manifest(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. `l2p validate` writes it; run that first.")
    try:
        rows = pd.read_parquet(path, columns=_COLUMNS)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: not a manifest ({' '.join(str(error).split())[:200]}). Run `l2p validate` again."
        ) from error
    if rows.empty:
        raise DataError(f"{path}: no accepted image. Look at {Layout.quarantine} for the reasons.")
    require_below(rows["file_name"], where=str(path))
    return rows
