"""Owns whether an image of the shapes world shows its caption: what the caption says against what the detector sees.

Never stricter than the caption. What it leaves open (a colour, a place, further objects) is free, and an image is
doubted only where the detector is sure: something stated is missing at the confidence at which an answer speaks of an
object, or there are more of what is counted even at the confidence that counting asks for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np

from l2p.config import ValidateParams
from l2p.errors import DataError
from l2p.shapes import canvas, captions, detector, palette, reading, silhouettes, world
from l2p.shapes.canvas import to_canvases
from l2p.shapes.detector import Detection, detect_on
from l2p.shapes.palette import background_distances
from l2p.shapes.world import PLURALS, QUADRANTS, SIZE_PX, Prompt, Thing

PRESENT_SCORE = 0.3  # GenEval's thresholds: an object is there,
COUNTED_SCORE = 0.9  # and is counted as one too many
_MAX_CANDIDATES = 12  # the most certain ones; a picture with more of what is asked for is none of this world
_DECIDING = (world, captions, reading, canvas, palette, silhouettes, detector)


class ShapesAgreement:
    """Doubts an image that does not show what its caption states."""

    name = "shapes"

    @property
    def digest(self) -> str:
        """SHA-256 of the code that decides."""
        return _code_digest()

    def doubts(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[str | None]:
        """What each image (uint8 RGB [H, W, 3]) lacks, or has too many of.

        Raises:
            DataError: a prompt is no caption of this world.
        """
        read = [_read(prompt) for prompt in prompts]
        canvases = to_canvases(images)
        seen = zip(read, detect_on(canvases), background_distances(canvases), strict=True)
        return [
            _doubt(prompt, found, min(distances, key=lambda name: distances[name])) for prompt, found, distances in seen
        ]


def agreement_judge(limits: ValidateParams) -> ShapesAgreement:
    """The judge of `validate.agreement: shapes`; it needs no settings."""
    return ShapesAgreement()


@cache
def _read(text: str) -> Prompt:
    try:
        return reading.read_caption(text)
    except DataError as error:
        raise DataError(
            f"validate.agreement = shapes: {error} Its judge understands those only; for other prompts set it "
            "to clip or none."
        ) from error


def _doubt(prompt: Prompt, found: Sequence[Detection], background: str) -> str | None:
    present = [each for each in found if each.score > PRESENT_SCORE]
    if len(prompt.things) == 1 and prompt.things[0].count > 1:
        problem = _count_problem(prompt.things[0], present)
    else:
        problem = _things_problem(prompt, present)
    if problem is None and prompt.background not in (None, background):
        problem = f"{background} background, {prompt.background} wanted"
    return problem


def _count_problem(thing: Thing, present: Sequence[Detection]) -> str | None:
    """Between the shapes that may be there and those that surely are, the number wanted must lie."""
    shapes = [each for each in present if _is(each, thing)]
    sure = sum(each.score >= COUNTED_SCORE for each in shapes)
    if sure <= thing.count <= len(shapes):
        return None
    count = sure if sure > thing.count else len(shapes)
    return f"{count} {thing.shape if count == 1 else PLURALS[thing.shape]} seen, {thing.count} wanted"


def _things_problem(prompt: Prompt, present: Sequence[Detection]) -> str | None:
    """One object for each thing, no object for two, so that all that is said of them holds."""
    wanted = Counter(_words(thing) for thing in prompt.things)
    for thing in prompt.things:
        seen = sum(_is(each, thing) for each in present)
        if seen < wanted[_words(thing)]:
            return (
                f"no {_words(thing)} seen"
                if not seen
                else f"{seen} x {_words(thing)} seen, {wanted[_words(thing)]} wanted"
            )
    candidates = [each for each in present if any(_is(each, thing) for thing in prompt.things)][:_MAX_CANDIDATES]
    choices = permutations(candidates, len(prompt.things))
    if any(_holds(prompt, objects) for objects in choices):
        return None
    if prompt.relation is not None:
        first, second = prompt.things
        return f"the {first.shape} is not {prompt.relation} the {second.shape}"
    return "not in the places stated"


def _holds(prompt: Prompt, objects: Sequence[Detection]) -> bool:
    pairs = list(zip(objects, prompt.things, strict=True))
    if not all(_is(each, thing) and _is_in(each, thing.quadrant) for each, thing in pairs):
        return False
    return prompt.relation is None or _related(objects[0], prompt.relation, objects[1])


def _is(each: Detection, thing: Thing) -> bool:
    return each.shape == thing.shape and thing.color in (None, each.color)


def _is_in(each: Detection, quadrant: str | None) -> bool:
    """Whether the centre lies on the quadrant's side of both middle lines."""
    if quadrant is None:
        return True
    towards = np.sign(np.array(QUADRANTS[quadrant]) - SIZE_PX / 2)
    return bool(((np.array(each.center) - SIZE_PX / 2) * towards > 0).all())


def _related(first: Detection, relation: str, second: Detection) -> bool:
    (x0, y0), (x1, y1) = first.center, second.center
    return {"left of": x0 < x1, "right of": x0 > x1, "above": y0 < y1, "below": y0 > y1}[relation]


def _words(thing: Thing) -> str:
    return thing.shape if thing.color is None else f"{thing.color} {thing.shape}"


@cache
def _code_digest() -> str:
    files = [str(module.__file__) for module in _DECIDING] + [__file__]
    return hashlib.sha256(b"".join(Path(name).read_bytes() for name in files)).hexdigest()
