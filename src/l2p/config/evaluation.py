"""Owns the sections of evaluation: sampling, benchmarks, fidelity, engines, efficiency."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from l2p.config.precision import AUTO_MEANS, Computing, Dtype
from l2p.config.section import Section


class SamplerParams(Section):
    """How a model draws an image."""

    num_steps: int = Field(gt=0, description="Denoising steps.")
    guidance_scale: float = Field(ge=0, description="Guidance as the source's own pipeline takes it (decision 0005).")
    shift: float | None = Field(default=None, gt=0, description="Time shift; null: the scheduler's own.")


class SamplingParams(Computing):
    """Sampling settings of both models in every evaluation."""

    source: SamplerParams
    pixel: SamplerParams
    batch_size: int = Field(gt=0, description="Images drawn at once.")
    dtype: Dtype = Field(description=f"Precision of both models in every evaluation; {AUTO_MEANS}.")


class BenchmarkParams(Section):
    """One benchmark."""

    data: str = Field(description="`shapes`, or a file in the benchmark's official format.")
    judge: str = Field(description="Name of the judge.")
    images_per_prompt: int = Field(gt=0, description="Images of each prompt; official: 4.")
    seed: int = Field(ge=0, description="First seed; every prompt and image has its own.")
    max_failed_share: float = Field(
        ge=0, le=1, description="Fail when more images than this share could not be drawn or judged."
    )
    judge_options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the judge, for example the folder of its weights."
    )
    subset: float = Field(
        default=1.0, gt=0, le=1, description="Share of the prompts, drawn within each task or category; 1: all."
    )


class DpgParams(BenchmarkParams):
    """DPG-Bench."""

    protocol: Literal["official", "fixed"] = Field(description="`official` keeps the published script's faults.")


class FidelityParams(Section):
    """How the pixel model's images are compared with the source's, beyond the benchmarks."""

    spectrum: bool = Field(description="Power spectra: does the pixel model keep fine detail?")
    clip: str | None = Field(
        description="CLIP model, a folder or repository id, for CLIP score, CMMD and a Fréchet distance; null: none."
    )
    inception: bool = Field(description="FID with the Inception network (extra `fid`).")


class EvaluationParams(Section):
    """How evaluations are computed; no score depends on it."""

    judge_batch_size: int = Field(gt=0, description="Images (GenEval) or questions (DPG-Bench) judged at once.")
    engine: Literal["local", "ray"] = Field(description="`local`: this process; `ray`: workers of a Ray cluster.")
    num_workers: int = Field(gt=0, description="For `ray`: workers, each with a model and, where there is one, a GPU.")


class EfficiencyParams(Section):
    """What is timed."""

    resolutions_px: tuple[int, ...] = Field(description="Square image sides at which both models are timed.")
    num_steps: int = Field(gt=0, description="Denoising steps per measurement.")
    repeats: int = Field(gt=0, description="Measurements; the median is reported.")
