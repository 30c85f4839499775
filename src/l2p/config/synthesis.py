"""Owns the sections `source`, `synthesize` and `embed`: the latent model, and how it draws the corpus."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2p.config.section import Section


class SourceParams(Section):
    """The latent model to convert."""

    path: str = Field(description="Folder in diffusers layout, or a Hugging Face repository id.")
    revision: str | None = Field(default=None, description="Commit of the repository; required for a repository id.")


class SynthesizeParams(Section):
    """How the source draws the corpus."""

    images_per_prompt: int = Field(gt=0, description="Images of each prompt, each with its own seed.")
    height_px: int = Field(gt=0, multiple_of=16, description="Image height.")
    width_px: int = Field(gt=0, multiple_of=16, description="Image width.")
    num_steps: int = Field(gt=0, description="Denoising steps.")
    guidance_scale: float = Field(ge=0, description="Guidance as the source's own pipeline takes it.")
    batch_size: int = Field(gt=0, description="Images drawn at once.")
    seed: int = Field(ge=0, description="Image i of the corpus has seed `seed + i`.")
    dtype: Literal["float32", "bfloat16"] = Field(description="Precision of the source while it draws.")


class EmbedParams(Section):
    """How prompt embeddings are computed."""

    batch_size: int = Field(gt=0, description="Prompts encoded at once.")
