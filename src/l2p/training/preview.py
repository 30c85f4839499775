"""Owns the sample grids: what the averaged weights draw now, under the corpus images of the same prompts and seeds."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from l2p.config import Layout, SamplerParams
from l2p.files import atomic_path
from l2p.models.embeddings import EMPTY_PROMPT_ID, EmbeddingStore
from l2p.models.pipeline import L2PPipeline, build_scheduler
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.sampling import draw_images
from l2p.models.source import SourcePin
from l2p.training.compilation import uncompiled
from l2p.training.samples import Corpus

COLUMNS = 8
_GAP_PX = 4
_WHITE = 255


class Preview:
    """Draws the same prompts with the same seeds every time, spread evenly over the manifest."""

    def __init__(
        self,
        model: PixelTransformer,
        corpus: Corpus,
        embeddings: EmbeddingStore,
        *,
        pin: SourcePin,
        sampler: SamplerParams,
        autocast_dtype: torch.dtype | None,
    ) -> None:
        """`sampler` is how it draws, `autocast_dtype` the precision of the training, None for float32."""
        self._pipeline = L2PPipeline(model, build_scheduler(pin, sampler.shift))
        self._pipeline.set_progress_bar_config(disable=True)
        self._corpus, self._sampler, self._autocast_dtype = corpus, sampler, autocast_dtype
        count = min(COLUMNS, len(corpus))
        self._rows = [index * len(corpus) // count for index in range(count)]
        self._texts = [embeddings.get(corpus.prompt_ids[row]) for row in self._rows]
        self._empty = embeddings.get(EMPTY_PROMPT_ID)

    def draw(self) -> np.ndarray:
        """Grid, uint8 RGB [2 H + gaps, n W + gaps, 3]: corpus above, model below."""
        device = self._pipeline.device.type
        enabled = self._autocast_dtype is not None
        with uncompiled(), torch.autocast(device, self._autocast_dtype or torch.bfloat16, enabled=enabled):
            drawn = draw_images(
                self._pipeline,
                self._texts,
                empty=self._empty,
                size_px=self._corpus.size_px,
                num_steps=self._sampler.num_steps,
                guidance_scale=self._sampler.guidance_scale,
                seeds=[self._corpus.seeds[row] for row in self._rows],
            )
        corpus = [self._corpus.image(row).permute(1, 2, 0).numpy() for row in self._rows]
        return _grid([corpus, list(drawn)])

    def save(self, step: int) -> np.ndarray:
        """Draw, and write `reports/training/samples/step-000200.png`."""
        grid = self.draw()
        path = Layout.training / "samples" / f"step-{step:06d}.png"
        with atomic_path(path) as partial:
            Image.fromarray(grid).save(partial, format="PNG")
        return grid


def _grid(lines: list[list[np.ndarray]]) -> np.ndarray:
    height, width, channels = lines[0][0].shape
    size = [len(lines) * (height + _GAP_PX) + _GAP_PX, len(lines[0]) * (width + _GAP_PX) + _GAP_PX, channels]
    grid = np.full(size, _WHITE, dtype=np.uint8)
    for row, line in enumerate(lines):
        for column, image in enumerate(line):
            top, left = _GAP_PX + row * (height + _GAP_PX), _GAP_PX + column * (width + _GAP_PX)
            grid[top : top + height, left : left + width] = image
    return grid
