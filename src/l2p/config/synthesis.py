"""Owns the sections `source`, `synthesize` and `embed`: the latent model, and how it draws the corpus."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from l2p.config.precision import AUTO_MEANS, Computing, Dtype
from l2p.config.section import Section


class SourceParams(Section):
    """The latent model to convert."""

    path: str = Field(description="Folder in diffusers layout, or a Hugging Face repository id.")
    revision: str | None = Field(default=None, description="Commit of the repository; required for a repository id.")


class SizeParams(Section):
    """One size of the corpus's images."""

    height_px: int = Field(gt=0, multiple_of=16, description="Image height.")
    width_px: int = Field(gt=0, multiple_of=16, description="Image width.")
    share: float = Field(gt=0, description="Share of the images, relative to the other sizes.")


class SynthesizeParams(Computing):
    """How the source draws the corpus."""

    images_per_prompt: int = Field(gt=0, description="Images of each prompt, each with its own seed.")
    height_px: int = Field(gt=0, multiple_of=16, description="Image height; also that of benchmarks and samples.")
    width_px: int = Field(gt=0, multiple_of=16, description="Image width; also that of benchmarks and samples.")
    sizes: tuple[SizeParams, ...] = Field(
        default=(), description="Sizes to mix; each image has one by lot. Empty: all have height_px x width_px."
    )
    num_steps: int = Field(gt=0, description="Denoising steps.")
    guidance_scale: float = Field(ge=0, description="Guidance as the source's own pipeline takes it.")
    shift: float | None = Field(default=None, gt=0, description="Time shift; null: the scheduler's own.")
    batch_size: int = Field(gt=0, description="Images drawn at once.")
    seed: int = Field(ge=0, description="From it, prompt, repetition and attempt follows each image's seed.")
    dtype: Dtype = Field(description=f"Precision of the source while it draws; {AUTO_MEANS}.")
    compile: bool = Field(default=False, description="Compile the transformer's blocks (torch.compile) at first use.")
    max_redraws: int = Field(
        default=0, ge=0, description="How often an image that `validate` would quarantine is drawn with a fresh seed."
    )
    max_failed_share: float = Field(
        default=0.0, ge=0, le=1, description="Stop at once when more images than this share have values not finite."
    )
    engine: Literal["local", "ray"] = Field(
        default="local", description="`local`: devices of this machine; `ray`: workers of a Ray cluster."
    )
    num_workers: int = Field(
        default=1, gt=0, description="Processes that draw, each with a model and, where there is one, a GPU."
    )
    threads: int | None = Field(
        default=None, gt=0, description="CPU threads of each worker; null: the machine's, shared among the workers."
    )

    @field_validator("sizes")
    @classmethod
    def _each_size_once(cls, sizes: tuple[SizeParams, ...]) -> tuple[SizeParams, ...]:
        for position, size in enumerate(sizes):
            if any((size.height_px, size.width_px) == (other.height_px, other.width_px) for other in sizes[:position]):
                raise ValueError(f"height_px {size.height_px}, width_px {size.width_px} is there twice; add the shares")
        return sizes


class EmbedParams(Section):
    """How prompt embeddings are computed."""

    batch_size: int = Field(gt=0, description="Prompts encoded at once.")
