"""Owns reading a caption of the shapes world back as the facts that it states, the inverse of `l2p.shapes.captions`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from l2p.errors import DataError
from l2p.shapes import captions
from l2p.shapes.world import BACKGROUNDS, COLORS, NUMBER_WORDS, PLURALS, QUADRANTS, RELATIONS, SHAPES, Prompt, Thing

_COUNTS = {word: count for count, word in NUMBER_WORDS.items() if count > 1}
_SINGULARS = {plural: shape for shape, plural in PLURALS.items()}


def read_caption(text: str) -> Prompt:
    """A caption of the shapes world as facts.

    Raises:
        DataError: it is none.
    """
    body, background = _split_background(text)
    opening = next((opening for opening in captions.OPENINGS if body.startswith(f"{opening} ")), None)
    if opening is None:
        prompt = _read_dense(body, background)
    else:
        prompt = _read_sentence(opening, body.removeprefix(f"{opening} "), background)
    if prompt is None or prompt.text != text:
        raise DataError(f"prompt {text!r}: no caption of the shapes world.")
    return prompt


def _any_of(words: Iterable[str]) -> str:
    return "(" + "|".join(map(re.escape, words)) + ")"


_SHAPE, _COLOR = _any_of(SHAPES), _any_of(COLORS)
_BACKED = re.compile(rf"(.*?),? on a {_any_of(BACKGROUNDS)} background")
_ONE = re.compile(rf"a {_SHAPE}")
_COLORED = re.compile(rf"a {_COLOR} {_SHAPE}")
_COUNTED = re.compile(rf"{_any_of(_COUNTS)} {_any_of(_SINGULARS)}")
_TWO = re.compile(rf"a {_SHAPE} and a {_SHAPE}")
_PLACED = re.compile(rf"a {_SHAPE} {_any_of(RELATIONS)} a {_SHAPE}")
_TWO_COLORED = re.compile(rf"a {_COLOR} {_SHAPE} and a {_COLOR} {_SHAPE}")
_DENSE = re.compile(rf"a {_COLOR} {_SHAPE} in the {_any_of(QUADRANTS)}")


def _split_background(text: str) -> tuple[str, str | None]:
    found = _BACKED.fullmatch(text)
    return (found[1], found[2]) if found else (text, None)


def _read_sentence(opening: str, body: str, background: str | None) -> Prompt | None:
    if found := _ONE.fullmatch(body):
        return captions.single_object(opening, found[1], background)
    if found := _COLORED.fullmatch(body):
        return captions.colors(opening, found[1], found[2], background)
    if found := _COUNTED.fullmatch(body):
        return captions.counting(opening, _COUNTS[found[1]], _SINGULARS[found[2]], background)
    if found := _TWO.fullmatch(body):
        return captions.two_object(opening, found[1], found[2], background)
    if found := _PLACED.fullmatch(body):
        return captions.position(opening, found[1], found[2], found[3], background)
    if found := _TWO_COLORED.fullmatch(body):
        return captions.color_attr(opening, Thing(found[2], found[1]), Thing(found[4], found[3]), background)
    return None


def _read_dense(body: str, background: str | None) -> Prompt | None:
    found = [_DENSE.fullmatch(part) for part in body.split(", ")]
    if background is None or not all(found):
        return None
    things = (Thing(each[2], each[1], quadrant=each[3]) for each in found if each is not None)
    return captions.dense(tuple(things), background)
