"""Owns the questions about a dense prompt: their wording, their dependency graph, and reading them back.

Wording, tuples and dependencies follow DPG-Bench: an attribute depends on its entity, a relation on its entity, a count
on everything counted; 0 means no dependency.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from l2p.errors import EvaluationError
from l2p.shapes.world import BACKGROUNDS, COLORS, NUMBER_WORDS, QUADRANTS, SHAPES, Prompt


@dataclass(frozen=True)
class EntityQuestion:
    """Is there such a shape?"""

    shape: str


@dataclass(frozen=True)
class ColorQuestion:
    """Has the shape this colour?"""

    shape: str
    color: str


@dataclass(frozen=True)
class PlaceQuestion:
    """Is the (coloured) shape in this quadrant?"""

    shape: str
    color: str | None
    quadrant: str


@dataclass(frozen=True)
class BackgroundQuestion:
    """Is the background of this colour?"""

    background: str


@dataclass(frozen=True)
class CountQuestion:
    """Are there exactly so many shapes?"""

    count: int


Question = EntityQuestion | ColorQuestion | PlaceQuestion | BackgroundQuestion | CountQuestion


@dataclass(frozen=True)
class Proposition:
    """One row of DPG's question graph. `kind` is (broad, detailed category); `parents` are proposition ids."""

    number: int
    parents: tuple[int, ...]
    kind: tuple[str, str]
    arguments: tuple[str, ...]
    question: str

    @property
    def tuple_text(self) -> str:
        """For example "attribute - color (circle, red)"."""
        return f"{self.kind[0]} - {self.kind[1]} ({', '.join(self.arguments)})"

    @property
    def dependency(self) -> str:
        """Parents as DPG writes them: "0" for none, else "1,4"."""
        return ",".join(str(parent) for parent in self.parents) or "0"


def propositions(prompt: Prompt) -> list[Proposition]:
    """The question graph of a dense prompt, numbered from 1, every parent before its children."""
    found: list[Proposition] = []
    entities: list[int] = []

    def add(kind: tuple[str, str], arguments: tuple[str, ...], question: str, parents: tuple[int, ...] = ()) -> int:
        found.append(Proposition(len(found) + 1, parents, kind, arguments, question))
        return len(found)

    for thing in prompt.things:
        shape, color, place = thing.shape, str(thing.color), str(thing.quadrant)
        entity = add(("entity", "whole"), (shape,), f"Is there a {shape}?")
        add(("attribute", "color"), (shape, color), f"Is the {shape} {color}?", (entity,))
        add(("relation", "spatial"), (shape, place), f"Is the {color} {shape} in the {place}?", (entity,))
        entities.append(entity)
    background = str(prompt.background)
    add(("global", "background"), (background,), f"Is the background {background}?")
    count = len(prompt.things)
    question = f"Are there exactly {NUMBER_WORDS[count]} shapes?"
    add(("other", "count"), ("shapes", f"=={count}"), question, tuple(entities))
    return found


def parse(question: str) -> Question:
    """Read a question of this world.

    Raises:
        EvaluationError: it is none; a silent "no" would be a wrong score.
    """
    for parsed in _readings(question.strip()):
        return parsed
    raise EvaluationError(
        f"question {question!r}: the shapes judge cannot read it. It knows 'Is there a circle?', 'Is the circle red?', "
        "'Is the red circle in the top left?', 'Is the background gray?', 'Are there exactly three shapes?'; "
        "other questions need another dpg.judge."
    )


def _any_of(words: Iterable[str]) -> str:
    return "(" + "|".join(re.escape(word) for word in words) + ")"


_COUNTS = {word: number for number, word in NUMBER_WORDS.items()}
_SHAPE, _COLOR = _any_of(SHAPES), _any_of(COLORS)
_ENTITY = re.compile(rf"Is there an? {_SHAPE}\?")
_COLORED = re.compile(rf"Is the {_SHAPE} {_COLOR}\?")
_PLACED = re.compile(rf"Is the (?:{_COLOR} )?{_SHAPE} in the {_any_of(QUADRANTS)}\?")
_BACKGROUND = re.compile(rf"Is the background {_any_of(BACKGROUNDS)}\?")
_COUNT = re.compile(rf"(?:Are|Is) there exactly {_any_of(_COUNTS)} shapes?\?")


def _readings(question: str) -> Iterator[Question]:
    if match := _ENTITY.fullmatch(question):
        yield EntityQuestion(match[1])
    if match := _COLORED.fullmatch(question):
        yield ColorQuestion(match[1], match[2])
    if match := _PLACED.fullmatch(question):
        yield PlaceQuestion(match[2], match[1], match[3])
    if match := _BACKGROUND.fullmatch(question):
        yield BackgroundQuestion(match[1])
    if match := _COUNT.fullmatch(question):
        yield CountQuestion(_COUNTS[match[1]])
