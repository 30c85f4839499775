"""Owns who looks at pixels and prompt together: finding the judge that params.yaml names, and what a judge is.

A judge says of each image what is wrong with it in a few words, or None. It is found by a dotted name and loaded only
when asked for, so that a corpus without such a rule needs none of its libraries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import Protocol

import numpy as np

from l2p.config import ValidateParams


class PixelJudge(Protocol):
    """Looks at images and their prompts."""

    @property
    def name(self) -> str:
        """Short name, for the result."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of whatever decides its answers: weights, or code."""
        ...

    def doubts(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[str | None]:
        """What is wrong with each image (uint8 RGB [H, W, 3], sizes may differ), in a few words; None if nothing is.

        An answer does not depend on the other images, up to float rounding.

        Raises:
            DataError: a prompt cannot be understood.
        """
        ...


# rule -> choice in params.yaml -> "module:factory"; a factory takes the limits and returns the judge
JUDGES: Mapping[str, Mapping[str, str]] = {
    "agreement": {
        "shapes": "l2p.shapes.agreement:agreement_judge",
        "clip": "l2p.data.checking.clip_agreement:agreement_judge",
    },
    "safety": {"nudenet": "l2p.data.checking.safety:safety_judge"},
}


def load_judges(limits: ValidateParams) -> dict[str, PixelJudge]:
    """The judge of each rule that needs one, by the name of the rule; those that are `none` are left out.

    Raises:
        DataError: one cannot be loaded; the message names the field.
    """
    chosen = {"agreement": limits.agreement, "safety": limits.safety}
    return {rule: resolve_name(JUDGES[rule][name])(limits) for rule, name in chosen.items() if name != "none"}
