"""Owns the loss of held-out images: the same images, noise and noise levels every time, so that values compare.

Every image is seen once in each third of sigma, by the averaged weights, with its own prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from l2p.config import TrainParams
from l2p.diffusion.loss import flow_matching_loss
from l2p.diffusion.path import interpolate
from l2p.models.embeddings import EmbeddingStore
from l2p.models.pixel_transformer import PixelTransformer
from l2p.training.compilation import uncompiled
from l2p.training.engine import Engine
from l2p.training.order import Size
from l2p.training.record import BAND_EDGES, BANDS, LossSums, loss_figures
from l2p.training.samples import Batch, Corpus, to_unit_range
from l2p.training.state import Draw, random_source

_GOLDEN_RATIO = 0.6180339887498949  # its multiples fill [0, 1) evenly, however many there are


@dataclass(frozen=True)
class Look:
    """One held-out image at one noise level."""

    row: int
    band: int
    sigma: float


class Validation:
    """The held-out images of one training."""

    def __init__(
        self,
        model: PixelTransformer,
        engine: Engine,
        corpus: Corpus,
        embeddings: EmbeddingStore,
        *,
        train: TrainParams,
        rows: Sequence[int],
    ) -> None:
        """`rows` of the corpus are held out."""
        self._model, self._engine, self._corpus, self._embeddings = model, engine, corpus, embeddings
        self._train, self._batches = train, list(_batches(rows, corpus.sizes, engine.micro_batch_size))

    def measure(self) -> dict[str, float]:
        """{"val_loss", "val_loss_low", ...} of the weights that the model has now; every process must call it."""
        sums = LossSums(self._engine.device)
        rank, world_size = self._engine.rank, self._engine.world_size
        rounds = -(-len(self._batches) // world_size)
        for number in range(rounds):  # as many in every process: with split weights a batch is work of all
            index = number * world_size + rank
            batch = self._batch(self._batches[index % len(self._batches)])
            sigma, per_sample = self._losses(batch.to(self._engine.device))
            if index < len(self._batches):
                sums.add(sigma, per_sample)
        figures = loss_figures(self._engine.sum_over_processes(sums.take()))
        return {f"val_{name}": value for name, value in figures.items()}

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        noisy = interpolate(batch.x0_BCHW, batch.noise_BCHW, batch.sigma_B)
        with uncompiled(), torch.no_grad():
            prediction = self._engine.predict(noisy, batch.sigma_B, self._model.adapter.collate(batch.embeddings))
        _, per_sample = flow_matching_loss(
            prediction,
            batch.x0_BCHW,
            batch.noise_BCHW,
            batch.sigma_B,
            prediction_type=self._model.config.prediction,
            min_sigma=self._train.min_sigma_weight,
        )
        return batch.sigma_B, per_sample

    def _batch(self, looks: Sequence[Look]) -> Batch:
        images = [self._corpus.image(look.row) for look in looks]
        noise = [
            torch.randn(image.shape, generator=random_source(self._train.seed, Draw.VALIDATION, look.row, look.band))
            for image, look in zip(images, looks, strict=True)
        ]
        prompt_ids = [self._corpus.prompt_ids[look.row] for look in looks]
        return Batch(
            x0_BCHW=to_unit_range(torch.stack(images)),
            noise_BCHW=torch.stack(noise),
            sigma_B=torch.tensor([look.sigma for look in looks]),
            embeddings=[self._embeddings.get(prompt_id) for prompt_id in prompt_ids],
            prompt_ids=prompt_ids,
            rows=[look.row for look in looks],
        )


def _batches(rows: Sequence[int], sizes: Sequence[Size], batch_size: int) -> Iterator[list[Look]]:
    """Looks in batches of one size each."""
    edges = (0.0, *BAND_EDGES, 1.0)
    by_size: dict[Size, list[Look]] = {}
    for number, row in enumerate(rows):
        share = (0.5 + number * _GOLDEN_RATIO) % 1  # where in each band
        for band in range(len(BANDS)):
            sigma = edges[band] + (edges[band + 1] - edges[band]) * share
            by_size.setdefault(sizes[row], []).append(Look(row, band, sigma))
    for looks in by_size.values():
        for start in range(0, len(looks), batch_size):
            yield looks[start : start + batch_size]
