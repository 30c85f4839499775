"""Owns the section `validate`: what the corpus must look like, and what follows when a rule is broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from l2p.config.section import Section

Severity = Literal["error", "quarantine", "warn"]
MAX_HASH_BITS = 15  # of 128; beyond it the search would compare nearly all images


@dataclass(frozen=True)
class Rule:
    """What the stage `validate` does by default when a rule is broken, and whether drawing again can mend it.

    `limits` are the fields that the rule compares with. A rule `of_images` is broken by single images, which may go to
    quarantine; any other is broken by the corpus as a whole.
    """

    severity: Severity
    of_images: bool = True
    redrawable: bool = False
    limits: tuple[str, ...] = ()


RULES: Mapping[str, Rule] = {
    # of the table
    "columns": Rule("error", of_images=False),
    "one_source": Rule("error", of_images=False),
    "accepted_share": Rule("error", of_images=False, limits=("min_accepted_share",)),
    "duplicate_share": Rule("error", of_images=False, limits=("max_duplicate_share",)),
    "class_share": Rule("warn", of_images=False, limits=("min_class_share", "max_class_share")),
    "class_kept": Rule("error", of_images=False, limits=("min_class_kept_share",)),
    # of rows
    "file_name_allowed": Rule("quarantine"),
    "file_name_unique": Rule("quarantine"),
    "prompt_and_seed_unique": Rule("quarantine"),
    "prompt": Rule("quarantine"),
    "prompt_id": Rule("quarantine"),
    "seed": Rule("quarantine"),
    "sha256_recorded": Rule("quarantine"),
    "steps": Rule("quarantine"),
    # of files
    "file_found": Rule("quarantine"),
    "decodable": Rule("quarantine", redrawable=True),
    "format": Rule("quarantine"),
    "sha256": Rule("quarantine"),
    "mode": Rule("quarantine", limits=("modes",)),
    "size": Rule("quarantine"),
    # of pixels
    "contrast": Rule("quarantine", redrawable=True, limits=("min_contrast",)),
    "saturation": Rule("quarantine", redrawable=True, limits=("max_clipped_share",)),
    "entropy": Rule("quarantine", redrawable=True, limits=("min_entropy_bits",)),
    "noise": Rule("quarantine", redrawable=True, limits=("min_smoothness",)),
    "duplicate": Rule("quarantine", redrawable=True),
    "near_repetition": Rule("quarantine", redrawable=True, limits=("near_levels_within_prompt", "near_hash_bits")),
    "near_duplicate": Rule("quarantine", redrawable=True, limits=("near_levels_across_prompts", "near_hash_bits")),
    "agreement": Rule("quarantine", redrawable=True, limits=("agreement", "clip_model", "min_clip_score")),
    "safety": Rule("quarantine", redrawable=True, limits=("safety", "unsafe_classes", "min_unsafe_score")),
}


class ValidateParams(Section):
    """What the corpus must look like."""

    min_accepted_share: float = Field(gt=0, le=1, description="At least this share of the images must be accepted.")
    max_duplicate_share: float = Field(ge=0, le=1, description="At most this share may have the pixels of another.")
    modes: list[Literal["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"]] = Field(
        min_length=1, description="Pillow's names of the pixel formats that image files may have."
    )
    min_contrast: float = Field(
        ge=0, description="Smallest standard deviation of pixel values (0..255) of a real image."
    )
    max_clipped_share: float = Field(
        gt=0, le=1, description="Largest share of channel values at an end of their range (0, 1, 254, 255)."
    )
    min_entropy_bits: float = Field(ge=0, le=8, description="Least entropy of an image's grey levels, of 8 bits.")
    min_smoothness: float = Field(
        ge=-1, le=1, description="Least correlation of neighbouring pixels: noise has 0, photographs have above 0.8."
    )
    near_hash_bits: int = Field(
        ge=0, le=MAX_HASH_BITS, description="Near duplicates are sought where hashes differ in at most so many bits."
    )
    near_levels_within_prompt: float | None = Field(
        ge=0,
        description="Images of one prompt whose thumbnails differ by at most so many levels (0..255) in the mean are "
        "near duplicates; null: not sought.",
    )
    near_levels_across_prompts: float | None = Field(
        ge=0, description="The same for images of different prompts; null: not sought."
    )
    agreement: Literal["none", "shapes", "clip"] = Field(
        description="Who says whether an image shows its prompt: nobody, the shapes world's detector, or a CLIP model."
    )
    clip_model: str | None = Field(description="Folder or repository id of the CLIP model for `agreement: clip`.")
    min_clip_score: float = Field(
        ge=0, le=100, description="Least CLIP score, 100 x cosine, of an image and its prompt."
    )
    safety: Literal["none", "nudenet"] = Field(
        description="Who looks for nudity: nobody, or NudeNet (pip install 'l2p[safety]')."
    )
    unsafe_classes: list[str] = Field(description="NudeNet's classes that make an image unsafe.")
    min_unsafe_score: float = Field(gt=0, le=1, description="How sure NudeNet must be of an unsafe class.")
    judge_batch_size: int = Field(gt=0, description="Images in memory at once where a judge looks at them.")
    min_class_share: float | None = Field(ge=0, le=1, description="Least share of a class in the accepted; null: any.")
    max_class_share: float | None = Field(gt=0, le=1, description="Largest share of a class; null: any.")
    min_class_kept_share: float | None = Field(
        ge=0, le=1, description="Least share of its own images that every class must keep; null: any."
    )
    severity: dict[str, Severity] = Field(
        description="Rules that are to `error`, `quarantine` or `warn` other than by default (docs/validation.md)."
    )

    def severity_of(self, rule: str) -> Severity:
        """What follows when `rule` is broken."""
        return self.severity.get(rule, RULES[rule].severity)

    @field_validator("severity")
    @classmethod
    def _known_rules(cls, severity: dict[str, Severity]) -> dict[str, Severity]:
        for name, level in severity.items():
            if name not in RULES:
                raise ValueError(f"no rule {name!r}; there are {', '.join(RULES)}")
            if level == "quarantine" and not RULES[name].of_images:
                raise ValueError(f"rule {name!r} is about the whole corpus: error or warn, there is no image to remove")
        return severity

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.agreement == "clip" and self.clip_model is None:
            raise ValueError("agreement = clip needs clip_model, a folder or repository id of a CLIP model")
        if self.safety != "none" and not self.unsafe_classes:
            raise ValueError(f"safety = {self.safety} needs unsafe_classes")
        if self.min_class_share and self.max_class_share and self.min_class_share > self.max_class_share:
            raise ValueError("min_class_share is larger than max_class_share")
        return self
