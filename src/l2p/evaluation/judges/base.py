"""Owns what a judge is: the protocols that a detector, a colour classifier and a question answerer fulfil.

Convention: images are uint8 RGB [H, W, 3]; boxes are (x0, y0, x1, y1) in pixels of that image, upper bounds exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from l2p.errors import EvaluationError
from l2p.files import sha256_json

Box = tuple[float, float, float, float]


class UnjudgeableImage(EvaluationError):
    """A judge cannot look at one image. It counts as a failure in the score card; the run goes on."""


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

    def detect(self, image: np.ndarray) -> list[Detection]:
        """All objects of uint8 RGB [H, W, 3], whatever their confidence, in any order."""
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

    def classify(self, image: np.ndarray, detections: Sequence[Detection]) -> list[str]:
        """One colour name per detection."""
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

    def answer(self, image: np.ndarray, question: str) -> str:
        """Answer "yes", "no", or whatever the model says; only exactly "yes" scores.

        Raises:
            EvaluationError: the question cannot be understood.
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
