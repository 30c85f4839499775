"""Owns the shapes world's judges: the same protocols as Mask2Former, CLIP and a VQA model fulfil for real sources.

Convention: images may have any size; the detector looks at 64x64, and boxes and masks are scaled back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from l2p.evaluation.judges.base import Detection, JudgeOptions, ObjectJudge, UnjudgeableImage
from l2p.shapes import canvas, detector, palette, questions, render, silhouettes, world
from l2p.shapes.canvas import to_canvases
from l2p.shapes.palette import background_distances
from l2p.shapes.questions import BackgroundQuestion, ColorQuestion, CountQuestion, EntityQuestion, parse
from l2p.shapes.world import COLORS, QUADRANTS, SHAPES, SIZE_PX

PRESENT_SCORE = 0.3  # an answer speaks of objects more certain than this, as GenEval does
PLACE_MARGIN = 0.08  # of the side: closer to the middle line than this is neither left nor right
BACKGROUND_TOLERANCE = 35.0  # Euclidean RGB distance; the nearest two backgrounds are 47 apart


class ShapesDetector:
    """Shapes with boxes, masks and confidence."""

    name = "shapes"
    labels = frozenset(SHAPES)

    @property
    def digest(self) -> str:
        """SHA-256 of the code that decides."""
        return _code_digest()

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """All shapes of each image, uint8 RGB [H, W, 3].

        Raises:
            UnjudgeableImage: not an RGB image.
        """
        _check_rgb(images)
        found = detector.detect_batch(images)
        return [self._at_full_size(shapes, image) for shapes, image in zip(found, images, strict=True)]

    def _at_full_size(self, shapes: Sequence[detector.Detection], image: np.ndarray) -> list[Detection]:
        height, width = image.shape[:2]
        scale = np.array([width, height, width, height]) / SIZE_PX
        found = []
        for shape in shapes:
            x0, y0, x1, y1 = (float(value) for value in np.array(shape.box) * scale)
            found.append(Detection(shape.shape, shape.score, (x0, y0, x1, y1), _resize(shape.mask, (height, width))))
        return found


class ShapesColorClassifier:
    """The palette colour that most pixels of a mask are nearest to."""

    name = "shapes"
    colors = frozenset(COLORS)

    @property
    def digest(self) -> str:
        """SHA-256 of the code that decides."""
        return _code_digest()

    def classify(self, objects: Sequence[tuple[np.ndarray, Detection]]) -> list[str]:
        """One colour per (image, detection); each detection needs a mask."""
        return detector.colors_in([(image, _mask_of(image, detection)) for image, detection in objects])


class ShapesQuestionAnswerer:
    """Answers the questions of `l2p.shapes.questions` from what the detector sees."""

    name = "shapes"

    @property
    def digest(self) -> str:
        """SHA-256 of the code that decides."""
        return _code_digest()

    def answer(self, asked: Sequence[tuple[np.ndarray, str]]) -> list[str]:
        """Answer "yes" or "no" to each (image, question).

        Raises:
            EvaluationError: the question is not of this world.
            UnjudgeableImage: not an RGB image.
        """
        images = {id(image): image for image, _ in asked}
        _check_rgb(list(images.values()))
        views = dict(zip(images, _look(list(images.values())), strict=True))
        return ["yes" if _holds(views[id(image)], parse(question)) else "no" for image, question in asked]


def object_judge(options: JudgeOptions, device: str) -> ObjectJudge:
    """GenEval's judge for this world; it needs no accelerator."""
    return ObjectJudge(ShapesDetector(), ShapesColorClassifier())


def question_judge(options: JudgeOptions, device: str) -> ShapesQuestionAnswerer:
    """DPG-Bench's judge for this world; it needs no accelerator."""
    return ShapesQuestionAnswerer()


@dataclass(frozen=True)
class _View:
    """What is seen in an image: shapes that count as present, best first, and how far the background is from each."""

    shapes: list[detector.Detection]
    backgrounds: dict[str, float]


def _look(images: Sequence[np.ndarray]) -> list[_View]:
    canvases = to_canvases(images)
    seen = zip(detector.detect_on(canvases), background_distances(canvases), strict=True)
    return [_View([shape for shape in found if shape.score > PRESENT_SCORE], backs) for found, backs in seen]


def _holds(view: _View, question: questions.Question) -> bool:
    """Whether it is so; "the circle" is the most certain one."""
    if isinstance(question, BackgroundQuestion):
        return view.backgrounds[question.background] < BACKGROUND_TOLERANCE
    if isinstance(question, CountQuestion):
        return len(view.shapes) == question.count
    named = [shape for shape in view.shapes if shape.shape == question.shape]
    if isinstance(question, EntityQuestion):
        return bool(named)
    if isinstance(question, ColorQuestion):
        return bool(named) and named[0].color == question.color
    if question.color is not None:
        named = [shape for shape in named if shape.color == question.color]
    return bool(named) and _is_in(named[0], question.quadrant)


def _is_in(shape: detector.Detection, quadrant: str) -> bool:
    """Whether the centre lies on the quadrant's side of both middle lines, clear of them."""
    middle = SIZE_PX / 2
    towards = np.sign(np.array(QUADRANTS[quadrant]) - middle)
    return bool(((np.array(shape.center) - middle) * towards > PLACE_MARGIN * SIZE_PX).all())


def _check_rgb(images: Sequence[np.ndarray]) -> None:
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UnjudgeableImage(f"expected a uint8 RGB image [H, W, 3], got {image.dtype} {list(image.shape)}.")


def _mask_of(image: np.ndarray, detection: Detection) -> np.ndarray:
    if detection.mask is None or detection.mask.shape != image.shape[:2]:
        raise UnjudgeableImage(f"the {detection.label} at {detection.box} has no mask of the image's size.")
    return detection.mask


def _resize(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if mask.shape == size:
        return mask
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.NEAREST)) > 0


_DECIDING = (world, render, canvas, palette, silhouettes, detector, questions)


@cache
def _code_digest() -> str:
    files = [str(module.__file__) for module in _DECIDING] + [__file__]
    return hashlib.sha256(b"".join(Path(name).read_bytes() for name in files)).hexdigest()
