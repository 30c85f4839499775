"""Owns drawing the images of a benchmark: only those that are missing, each written as soon as it is there.

A killed run loses the batch it was at. An image that cannot be drawn is counted, its batch is drawn again one by one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from l2p.config import EvaluationParams, SamplerParams
from l2p.errors import EvaluationError
from l2p.evaluation.engine import run_batches, split
from l2p.evaluation.images import DrawingCard, ImageFile, is_drawn, join_tiles, single_images, write_image
from l2p.evaluation.judgements import Failure, describe_failure
from l2p.models.adapters import ADAPTERS
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.pipeline import L2PPipeline
from l2p.models.sampling import draw_pixels, encode_prompts, to_uint8

_NAMED_FAILURES = 3


class Painter(Protocol):
    """Draws one image per prompt and seed."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """uint8 RGB [B, H, W, 3].

        Raises:
            RuntimeError, ValueError: the batch cannot be drawn.
        """
        ...


@dataclass(frozen=True)
class DrawingPlan:
    """How missing images are drawn: what they have in common, how many at once, where, and how many may fail."""

    card: DrawingCard
    batch_size: int
    machine: EvaluationParams
    max_failed_share: float


@dataclass(frozen=True)
class Drawn:
    """How many images were drawn now, and the image files that are not there, with the reason."""

    count: int
    failures: tuple[Failure, ...]


class DrawingWorker:
    """Draws batches of single images and writes each; answers one reason per image that failed, None for the others."""

    def __init__(self, make_painter: Callable[[], Painter], card: DrawingCard) -> None:
        """The painter is made at once: a worker exists only when there is something to draw."""
        self._painter, self._card = make_painter(), card

    def __call__(self, files: Sequence[ImageFile]) -> list[str | None]:
        """Draw and write."""
        try:
            images = self._painter([file.prompt for file in files], [file.seeds[0] for file in files])
        except (RuntimeError, ValueError) as error:
            if len(files) == 1:
                return [describe_failure(error)]
            return [self([file])[0] for file in files]
        for file, image in zip(files, images, strict=True):
            write_image(file, image, self._card)
        return [None] * len(files)


def draw_missing(
    files: Sequence[ImageFile], make_painter: Callable[[], Painter], plan: DrawingPlan, title: str
) -> Drawn:
    """Draw the files that are not there yet, or are of another model, sampler, size, seed or prompt.

    Args:
        files: what the benchmark needs.
        make_painter: makes what draws; not called when nothing is missing.
        plan: how.
        title: label of the progress bar.

    Raises:
        EvaluationError: more than the set share of the images cannot be drawn.
    """
    unfinished = [file for file in files if not is_drawn(file, plan.card)]
    missing = [image for file in unfinished for image in single_images(file) if not is_drawn(image, plan.card)]
    allowed = plan.max_failed_share * sum(len(file.seeds) for file in files)
    reasons: dict[Path, str] = {}
    worker = functools.partial(DrawingWorker, make_painter, plan.card)
    with tqdm(total=len(missing), desc=title, unit="image", disable=None) as progress:
        for batch, results in run_batches(worker, split(missing, plan.batch_size), plan.machine):
            reasons |= {file.path: reason for file, reason in zip(batch, results, strict=True) if reason is not None}
            if len(reasons) > allowed:
                raise EvaluationError(_too_many(title, reasons, plan.max_failed_share))
            progress.update(len(batch))
    failures = [failure for file in unfinished for failure in _finish(file, reasons, plan.card)]
    return Drawn(len(missing) - len(reasons), tuple(failures))


def _finish(file: ImageFile, reasons: dict[Path, str], card: DrawingCard) -> list[Failure]:
    """Join the images of a grid; what remains missing is a failure of the file."""
    parts = single_images(file)
    failed = [reasons[part.path] for part in parts if part.path in reasons]
    if failed:
        return [Failure(file.path.as_posix(), f"not drawn: {failed[0]}")]
    if len(parts) > 1:
        write_image(file, join_tiles([_read(part.path) for part in parts]), card)
        for part in parts:
            part.path.unlink()
    return []


def _read(path: Path) -> np.ndarray:
    with Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image)


def _too_many(title: str, reasons: dict[Path, str], share: float) -> str:
    named = "; ".join(f"{path.name}: {reason}" for path, reason in list(reasons.items())[:_NAMED_FAILURES])
    return (
        f"{title}: {len(reasons)} images could not be drawn, more than max_failed_share = {share}. First: {named}. "
        "What was drawn is kept; remove the cause and run it again."
    )


class PipelinePainter:
    """Draws with a diffusers pipeline, a source's own, ours, or any other. Encodes each prompt once where it can."""

    def __init__(self, load_pipeline: Callable[[], Any], sampler: SamplerParams, size_px: tuple[int, int]) -> None:
        """Load the pipeline; `size_px` is (height, width)."""
        self._pipeline = load_pipeline()
        self._sampler = sampler
        self._size_px = size_px
        self._empty: PromptEmbedding | None = None
        self._known: dict[str, PromptEmbedding] = {}  # of the last batch: a prompt's images follow one another

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """uint8 RGB [B, H, W, 3]."""
        if not _takes_embeddings(self._pipeline):
            return self._draw_from_text(prompts, seeds)
        if self._empty is None:
            (self._empty,) = encode_prompts(self._pipeline, [""])
        return to_uint8(
            draw_pixels(
                self._pipeline,
                self._embed(prompts),
                empty=self._empty,
                size_px=self._size_px,
                num_steps=self._sampler.num_steps,
                guidance_scale=self._sampler.guidance_scale,
                seeds=list(seeds),
            )
        )

    def _embed(self, prompts: Sequence[str]) -> list[PromptEmbedding]:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        encoded = dict(zip(new, encode_prompts(self._pipeline, new), strict=True)) if new else {}
        self._known = {prompt: encoded.get(prompt) or self._known[prompt] for prompt in prompts}
        return [self._known[prompt] for prompt in prompts]

    def _draw_from_text(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """For a pipeline without an adapter: it encodes the prompts itself."""
        settings: dict[str, Any] = {
            "height": self._size_px[0],
            "width": self._size_px[1],
            "num_inference_steps": self._sampler.num_steps,
            "guidance_scale": self._sampler.guidance_scale,
        }
        known = inspect.signature(self._pipeline.__call__).parameters
        return to_uint8(
            self._pipeline(
                prompt=list(prompts),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="np",
                **{name: value for name, value in settings.items() if name in known},
            ).images
        )


def _takes_embeddings(pipeline: Any) -> bool:
    return isinstance(pipeline, L2PPipeline) or type(getattr(pipeline, "transformer", None)).__name__ in ADAPTERS
