"""Owns the section `validate`: what the corpus must look like."""

from __future__ import annotations

from pydantic import Field

from l2p.config.section import Section


class ValidateParams(Section):
    """What the corpus must look like."""

    min_accepted_share: float = Field(gt=0, le=1, description="Fail when fewer images than this share pass.")
    min_contrast: float = Field(
        ge=0, description="Smallest standard deviation of pixel values (0..255) of a real image."
    )
    max_duplicate_share: float = Field(ge=0, le=1, description="Fail when more images than this share are duplicates.")
