"""Owns the section `convert`: the graft."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from l2p.config.section import Section


class HeadParams(Section):
    """The detailer head."""

    type: Literal["official", "unet"] = Field(
        description="`official`: the published head; `unet`: normalised residual blocks, bounded cost at any patch."
    )
    widths: tuple[int, ...] = Field(
        min_length=1, description="Channels per level, outermost first; official: 64, 128, 256, 512."
    )


class EmbedderParams(Section):
    """The patch embedder."""

    max_parameters: int = Field(gt=0, description="Above this many weights the linear embedder gets a bottleneck.")
    rank: int = Field(gt=0, description="Width of that bottleneck.")


class ConvertParams(Section):
    """The graft."""

    patch_size_px: int = Field(gt=0, description="Side of the square RGB patches that become tokens.")
    head: HeadParams
    embedder: EmbedderParams
    prediction: Literal["velocity", "x0"] = Field(description="What the head predicts; the paper: velocity.")
    init: Literal["random", "fitted"] = Field(
        description="How the new ends start: `random` (paper), or `fitted` to the source (decision 0003)."
    )
    calibration_images: int = Field(gt=0, description="For `fitted`: corpus images used by the fit.")
    ridge: float = Field(gt=0, description="For `fitted`: regularisation of the fit.")
    seed: int = Field(ge=0, description="Seed of the new weights.")

    @model_validator(mode="after")
    def _a_fit_predicts_the_image(self) -> ConvertParams:
        if self.init == "fitted" and self.prediction != "x0":
            raise ValueError("init `fitted` reads the image off the features, so it needs prediction `x0`")
        return self
