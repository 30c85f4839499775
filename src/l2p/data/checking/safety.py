"""Owns NudeNet's word on whether an image is safe; the package, an optional extra, brings its own weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from l2p.config import ValidateParams
from l2p.errors import ConfigError, DataError
from l2p.files import sha256_file

CLASSES = frozenset(
    f"{part}_{state}"
    for part in (
        "FEMALE_GENITALIA", "FEMALE_BREAST", "MALE_GENITALIA", "MALE_BREAST", "ANUS", "BUTTOCKS", "BELLY", "FEET",
        "ARMPITS",
    )
    for state in ("EXPOSED", "COVERED")
) - {"MALE_GENITALIA_COVERED", "MALE_BREAST_COVERED"} | {"FACE_FEMALE", "FACE_MALE"}  # fmt: skip
_WEIGHTS = "320n.onnx"


class NudeNetSafety:
    """Doubts an image in which NudeNet finds one of the unsafe classes."""

    name = "nudenet"

    def __init__(self, classes: Sequence[str], min_score: float) -> None:
        """Raises DataError without the extra, ConfigError for a class that NudeNet does not know."""
        unknown = sorted(set(classes) - CLASSES)
        if unknown:
            raise ConfigError(
                f"validate.unsafe_classes: no class {unknown[0]!r}; there are {', '.join(sorted(CLASSES))}."
            )
        found = importlib.util.find_spec("nudenet")
        if found is None or found.origin is None:
            raise DataError(
                "validate.safety = nudenet: not installed. Run pip install 'l2p[safety]', or set it to none."
            )
        from nudenet import NudeDetector

        self.digest = sha256_file(Path(found.origin).with_name(_WEIGHTS))
        self._detector: Any = NudeDetector()
        self._classes, self._min_score = frozenset(classes), min_score

    def doubts(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[str | None]:
        """The surest unsafe class found in each image; prompts play no part."""
        return [self._doubt(image) for image in images]

    def _doubt(self, image: np.ndarray) -> str | None:
        detected = self._detector.detect(np.ascontiguousarray(image[..., ::-1]))  # it reads files as BGR
        found = [each for each in detected if each["class"] in self._classes and each["score"] >= self._min_score]
        if not found:
            return None
        surest = max(found, key=lambda each: each["score"])
        return f"{surest['class'].lower().replace('_', ' ')} {surest['score']:.2f}"


def safety_judge(limits: ValidateParams) -> NudeNetSafety:
    """The judge of `safety: nudenet`."""
    return NudeNetSafety(limits.unsafe_classes, limits.min_unsafe_score)
