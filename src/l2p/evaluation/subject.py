"""Owns which model is evaluated: the pinned source or the converted pixel model, with its digest and sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from l2p.config import BenchmarkParams, Layout, Params, SamplerParams
from l2p.evaluation.benchmark_data import DpgData, GenEvalData
from l2p.evaluation.images import SEED_FORMULA, DrawingCard, PipelinePainter
from l2p.evaluation.judges.base import ObjectJudge, QuestionAnswerer
from l2p.evaluation.scores import ScoreCard
from l2p.files import sha256_json
from l2p.models.delta import read_delta_card
from l2p.models.pipeline import build_scheduler, load_pixel_pipeline
from l2p.models.source import SourcePin, load_source_pipeline

ModelName = Literal["source", "pixel"]
Judge = ObjectJudge | QuestionAnswerer


@dataclass(frozen=True)
class Subject:
    """A model under evaluation; nothing is loaded before its first image is drawn.

    `digest` is the SHA-256 over whatever decides what the model draws, settings of the sampler apart.
    """

    name: ModelName
    digest: str
    pin: SourcePin
    sampler: SamplerParams
    size_px: tuple[int, int]
    device: str
    dtype: str

    def load_pipeline(self) -> Any:
        """The model's pipeline with the time shift of `sampler`."""
        if self.name == "source":
            pipeline = load_source_pipeline(self.pin, dtype=self.dtype, device=self.device)
        else:
            pipeline = load_pixel_pipeline(Layout.pixel, dtype=self.dtype, device=self.device)
        if self.name == "pixel" or self.sampler.shift is not None:
            pipeline.scheduler = build_scheduler(self.pin, self.sampler.shift)
        return pipeline

    def painter(self) -> PipelinePainter:
        """Draws this model's images."""
        return PipelinePainter(self.load_pipeline, self.sampler, self.size_px)

    def drawing_card(self) -> DrawingCard:
        """What all images of this model have in common."""
        height, width = self.size_px
        return DrawingCard(self.digest, self.sampler.model_dump(), height, width, self.dtype, self.device)

    def score_card(
        self, data: GenEvalData | DpgData, settings: BenchmarkParams, judge: Judge, *, protocol: str
    ) -> ScoreCard:
        """Card of a score of this model, still without failures."""
        height, width = self.size_px
        n_prompts = len(data.prompts if isinstance(data, GenEvalData) else data.items)
        return ScoreCard(
            benchmark="geneval" if isinstance(data, GenEvalData) else "dpg",
            protocol=protocol,
            prompts_file=data.name,
            prompts_sha256=data.digest,
            n_prompts=n_prompts,
            n_images=n_prompts * settings.images_per_prompt,
            images_per_prompt=settings.images_per_prompt,
            first_seed=settings.seed,
            seed_formula=SEED_FORMULA,
            height_px=height,
            width_px=width,
            model={"name": self.name, "digest": self.digest},
            sampler=self.sampler.model_dump(),
            judge={"name": judge.name, "digest": judge.digest},
            device=self.device,
            dtype=self.dtype,
        )


def open_subject(name: ModelName, params: Params) -> Subject:
    """The source or the pixel model of this project, with its sampling settings.

    Raises:
        MissingFileError: the stage that writes it has not run.
    """
    if name == "source":
        pin = SourcePin.load(Layout.source)
        digest = pin.digest
    else:
        card = read_delta_card(Layout.pixel)
        pin = SourcePin(**card["source"])
        digest = sha256_json([pin.digest, card["weights_sha256"]])
    return Subject(
        name=name,
        digest=digest,
        pin=pin,
        sampler=params.sampling.source if name == "source" else params.sampling.pixel,
        size_px=(params.synthesize.height_px, params.synthesize.width_px),
        device="cuda" if torch.cuda.is_available() else "cpu",
        dtype=params.sampling.dtype,
    )
