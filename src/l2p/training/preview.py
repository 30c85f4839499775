"""Owns the sample grids: what the averaged weights draw now, under the corpus images of the same prompts and seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from l2p.config import Layout, SamplerParams
from l2p.files import atomic_path
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.embeddings import EMPTY_PROMPT_ID, EmbeddingStore
from l2p.models.pipeline import L2PPipeline, build_scheduler
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.sampling import draw_pixels
from l2p.models.source import SourcePin
from l2p.training.compilation import uncompiled
from l2p.training.order import Size
from l2p.training.samples import Corpus

COLUMNS = 8
_GAP_PX = 4
_GRIDS = Layout.training / "samples"
_WHITE = 255


class Draw(Protocol):
    """How the model in training draws, now."""

    def __call__(self, texts: Sequence[PromptEmbedding], seeds: Sequence[int], size_px: Size) -> np.ndarray:
        """Float [B, H, W, 3] in 0..1, one image per embedding and seed."""
        ...


class Preview:
    """Draws the same prompts with the same seeds every time, spread evenly over some rows of the manifest."""

    def __init__(
        self,
        model: PixelTransformer,
        corpus: Corpus,
        embeddings: EmbeddingStore,
        *,
        rows: Sequence[int],
        pin: SourcePin,
        sampler: SamplerParams,
        device: torch.device,
        autocast_dtype: torch.dtype | None,
    ) -> None:
        """Of `rows`, those of the commonest size are drawn.

        Args:
            model: the one in training.
            corpus: shown above what the model draws.
            embeddings: of its prompts.
            rows: where prompts and seeds come from.
            pin: the source, whose scheduler draws.
            sampler: how it draws.
            device: of the training.
            autocast_dtype: precision of the training, None for float32.
        """
        self._pipeline = L2PPipeline(model, build_scheduler(pin, sampler.shift))
        self._pipeline.set_progress_bar_config(disable=True)
        self._corpus, self._sampler, self._autocast_dtype = corpus, sampler, autocast_dtype
        self._device = device
        self._size_px = Counter(corpus.sizes[row] for row in rows).most_common(1)[0][0]
        rows = [row for row in rows if corpus.sizes[row] == self._size_px]
        count = min(COLUMNS, len(rows))
        self._rows = [rows[index * len(rows) // count] for index in range(count)]
        self._texts = [embeddings.get(corpus.prompt_ids[row]) for row in self._rows]
        self._empty = embeddings.get(EMPTY_PROMPT_ID)

    def draw_prompts(self, texts: Sequence[PromptEmbedding], seeds: Sequence[int], size_px: Size) -> np.ndarray:
        """Float [B, H, W, 3] in 0..1, drawn as the grids are."""
        enabled = self._autocast_dtype is not None
        with uncompiled(), torch.autocast(self._device.type, self._autocast_dtype or torch.bfloat16, enabled=enabled):
            return draw_pixels(
                self._pipeline,
                list(texts),
                empty=self._empty,
                size_px=size_px,
                num_steps=self._sampler.num_steps,
                guidance_scale=self._sampler.guidance_scale,
                seeds=list(seeds),
            )

    def draw(self) -> np.ndarray:
        """Grid, uint8 RGB [2 H + gaps, n W + gaps, 3]: corpus above, model below."""
        drawn = self.draw_prompts(self._texts, [self._corpus.seeds[row] for row in self._rows], self._size_px)
        pixels = (np.nan_to_num(drawn) * 255).round().astype(np.uint8)
        corpus = [self._corpus.image(row).permute(1, 2, 0).numpy() for row in self._rows]
        return _grid([corpus, list(pixels)])

    def save(self, grid: np.ndarray, step: int) -> np.ndarray:
        """Write `reports/training/samples/step-000200.png`."""
        path = _GRIDS / f"step-{step:06d}.png"
        with atomic_path(path) as partial:
            Image.fromarray(grid).save(partial, format="PNG")
        return grid


def drop_grids_after(step: int) -> None:
    """Delete grids of later steps: of a training that was discarded, or that this one draws again."""
    for path in _GRIDS.glob("step-*.png"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()


def _grid(lines: list[list[np.ndarray]]) -> np.ndarray:
    height, width, channels = lines[0][0].shape
    size = [len(lines) * (height + _GAP_PX) + _GAP_PX, len(lines[0]) * (width + _GAP_PX) + _GAP_PX, channels]
    grid = np.full(size, _WHITE, dtype=np.uint8)
    for row, line in enumerate(lines):
        for column, image in enumerate(line):
            top, left = _GAP_PX + row * (height + _GAP_PX), _GAP_PX + column * (width + _GAP_PX)
            grid[top : top + height, left : left + width] = image
    return grid
