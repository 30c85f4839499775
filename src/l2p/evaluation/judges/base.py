"""Owns what a judge is: the protocols that a detector, a colour classifier and a question answerer fulfil.

Convention: images are uint8 RGB [H, W, 3]; boxes are (x0, y0, x1, y1) in pixels of that image, upper bounds exclusive.
Judges work on batches, and an answer does not depend on what else is in its batch (up to float rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from l2p.config import Section
from l2p.errors import EvaluationError
from l2p.files import sha256_json

Box = tuple[float, float, float, float]


class UnjudgeableImage(EvaluationError):
    """A judge cannot look at one image. It counts as a failure in the score card; the run goes on."""


class JudgeOptions(Section):
    """Settings of a judge that has none; a judge with settings has a subclass. Unknown keys are refused."""


@dataclass(frozen=True)
class Detection:
    """One object: class name, confidence in 0..1, box, and mask bool [H, W] (None when the detector gives none)."""

    label: str
    score: float
    box: Box
    mask: np.ndarray | None = None


class ObjectDetector(Protocol):
    """Finds objects."""

    @property
    def name(self) -> str:
        """Short name, for score cards."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of whatever decides its answers: weights, or code."""
        ...

    @property
    def labels(self) -> frozenset[str]:
        """Every class that it can find; a benchmark that asks for another one is refused."""
        ...

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """All objects of each image (uint8 RGB [H, W, 3], sizes may differ), whatever their confidence, in any order.

        Raises:
            UnjudgeableImage: one of them cannot be looked at; the caller then asks for each alone.
        """
        ...


class ColorClassifier(Protocol):
    """Names the colours of detected objects."""

    @property
    def name(self) -> str:
        """Short name, for score cards."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of whatever decides its answers."""
        ...

    @property
    def colors(self) -> frozenset[str]:
        """Every colour that it can name."""
        ...

    def classify(self, objects: Sequence[tuple[np.ndarray, Detection]]) -> list[str]:
        """One colour name per (image, detection of that image).

        Raises:
            UnjudgeableImage: one of them cannot be looked at; the caller then asks for each image alone.
        """
        ...


class QuestionAnswerer(Protocol):
    """Answers yes/no questions about an image."""

    @property
    def name(self) -> str:
        """Short name, for score cards."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of whatever decides its answers."""
        ...

    def answer(self, asked: Sequence[tuple[np.ndarray, str]]) -> list[str]:
        """One answer per (image, question): "yes", "no", or whatever the model says; only exactly "yes" scores.

        Questions about one image follow one another, and are then about the same array object.

        Raises:
            UnjudgeableImage: one image cannot be looked at; the caller then asks for each image alone.
            EvaluationError: a question cannot be understood.
        """
        ...


@dataclass(frozen=True)
class ObjectJudge:
    """GenEval's judge: a detector and a colour classifier that go together."""

    detector: ObjectDetector
    color_classifier: ColorClassifier

    @property
    def name(self) -> str:
        """Both names, joined when they differ."""
        return "+".join(dict.fromkeys([self.detector.name, self.color_classifier.name]))

    @property
    def digest(self) -> str:
        """SHA-256 over both digests."""
        return sha256_json([self.detector.digest, self.color_classifier.digest])
