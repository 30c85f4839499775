"""Owns which model is evaluated: the project's source or pixel model, any pixel model, or any diffusers pipeline."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from l2p.config import Layout, Params, SamplerParams
from l2p.evaluation.drawing import PipelinePainter
from l2p.evaluation.images import DrawingCard
from l2p.files import sha256_json
from l2p.models.delta import read_delta_card
from l2p.models.pipeline import build_scheduler, load_pixel_pipeline
from l2p.models.source import SourcePin, load_source_pipeline

ModelName = Literal["source", "pixel"]


@dataclass(frozen=True)
class Subject:
    """A model under evaluation; nothing is loaded before its first image is drawn.

    `digest` is the SHA-256 over whatever decides what the model draws, settings of the sampler apart; `load` makes its
    pipeline and can be sent to another process.
    """

    name: str
    digest: str
    sampler: SamplerParams
    size_px: tuple[int, int]
    device: str
    dtype: str
    load: Callable[[], Any]

    def make_painter(self) -> PipelinePainter:
        """Load the model; the result draws its images."""
        return PipelinePainter(self.load, self.sampler, self.size_px)

    def drawing_card(self) -> DrawingCard:
        """What all images of this model have in common."""
        height, width = self.size_px
        return DrawingCard(self.digest, self.sampler.model_dump(), height, width, self.dtype, self.device)


def open_subject(name: ModelName, params: Params) -> Subject:
    """The source or the pixel model of this project, with its sampling settings.

    Raises:
        MissingFileError: the stage that writes it has not run.
    """
    device, dtype = default_device(), params.sampling.precision
    if name == "source":
        sampler, pin = params.sampling.source, SourcePin.load(Layout.source)
        digest = pin.digest
        load = functools.partial(load_source, pin, sampler.shift, dtype, device)
    else:
        sampler, digest = params.sampling.pixel, delta_digest(Layout.pixel)
        load = functools.partial(load_pixel, Layout.pixel, sampler.shift, dtype, device)
    size_px = (params.synthesize.height_px, params.synthesize.width_px)
    return Subject(name, digest, sampler, size_px, device, dtype, load)


def default_device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def delta_digest(folder: Path) -> str:
    """Digest of a pixel model: of its source and of the delta's weights.

    Raises:
        MissingFileError: the folder holds no delta.
    """
    card = read_delta_card(folder)
    return sha256_json([card["source"]["digest"], card["weights_sha256"]])


def load_source(pin: SourcePin, shift: float | None, dtype: str, device: str) -> Any:
    """A source's pipeline, with the time shift if there is one."""
    pipeline = load_source_pipeline(pin, dtype=dtype, device=device)
    if shift is not None:
        pipeline.scheduler = build_scheduler(pin, shift)
    return pipeline


def load_pixel(folder: Path, shift: float | None, dtype: str, device: str) -> Any:
    """A pixel model's pipeline, with the time shift; None: the source scheduler's own."""
    pipeline = load_pixel_pipeline(folder, dtype=dtype, device=device)
    pipeline.scheduler = build_scheduler(SourcePin(**read_delta_card(folder)["source"]), shift)
    return pipeline
