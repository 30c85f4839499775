"""Owns the prompts: every caption of the world, split into a training side and a held-out side.

The split is by content, not by chance: certain pairs (colour with shape, first with second shape, shape with
background, number with shape) belong to the benchmarks alone. A training prompt never holds a held-out pair of its
style, a benchmark prompt always does, so no benchmark prompt can occur among the training prompts.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

from l2p.shapes.world import (
    BACKGROUNDS,
    COLORS,
    DENSE,
    NUMBER_WORDS,
    PLURALS,
    QUADRANTS,
    RELATIONS,
    SHAPES,
    Prompt,
    Thing,
)

OPENINGS = ("a photo of", "a picture of", "a drawing of")
BENCHMARK_OPENING = OPENINGS[0]

# Benchmarks only. A coloured pair is held out of every training caption, whatever its style.
HELD_OUT_COLORED = {("purple", "circle"), ("red", "square"), ("black", "triangle"), ("green", "star")}
HELD_OUT_ORDERED = {("circle", "star"), ("square", "triangle"), ("star", "square")}
HELD_OUT_BACKED = {
    ("circle", "white"),
    ("circle", "pink"),
    ("square", "gray"),
    ("square", "cyan"),
    ("triangle", "white"),
    ("triangle", "cyan"),
    ("star", "gray"),
    ("star", "pink"),
}
HELD_OUT_COUNTED = {(3, "circle"), (2, "square"), (4, "triangle"), (2, "star")}

STYLE_WEIGHTS = {
    "single_object": 1.0,
    "two_object": 1.5,
    "counting": 1.5,
    "colors": 1.5,
    "position": 1.75,
    "color_attr": 1.75,
    DENSE: 3.0,
}

_COUNTS = (2, 3, 4)
_SHAPE_PAIRS = tuple(itertools.permutations(SHAPES, 2))
_COLORED = tuple(itertools.product(COLORS, SHAPES))
_STATED_BACKGROUNDS = (None, *BACKGROUNDS)


def single_object(opening: str, shape: str, background: str | None) -> Prompt:
    """Such as `a photo of a circle on a pink background`."""
    return Prompt("single_object", _close(f"{opening} a {shape}", background), (Thing(shape),), None, background)


def two_object(opening: str, first: str, second: str, background: str | None) -> Prompt:
    """Such as `a photo of a circle and a star`."""
    text = _close(f"{opening} a {first} and a {second}", background)
    return Prompt("two_object", text, (Thing(first), Thing(second)), None, background)


def counting(opening: str, count: int, shape: str, background: str | None) -> Prompt:
    """Such as `a photo of three circles`."""
    text = _close(f"{opening} {NUMBER_WORDS[count]} {PLURALS[shape]}", background)
    return Prompt("counting", text, (Thing(shape, count=count),), None, background)


def colors(opening: str, color: str, shape: str, background: str | None) -> Prompt:
    """Such as `a photo of a purple circle`."""
    text = _close(f"{opening} a {color} {shape}", background)
    return Prompt("colors", text, (Thing(shape, color),), None, background)


def position(opening: str, first: str, relation: str, second: str, background: str | None) -> Prompt:
    """Such as `a photo of a circle above a star`."""
    text = _close(f"{opening} a {first} {relation} a {second}", background)
    return Prompt("position", text, (Thing(first), Thing(second)), relation, background)


def color_attr(opening: str, first: Thing, second: Thing, background: str | None) -> Prompt:
    """Such as `a photo of a black circle and a blue star`."""
    text = f"{opening} a {first.color} {first.shape} and a {second.color} {second.shape}"
    return Prompt("color_attr", _close(text, background), (first, second), None, background)


def dense(things: tuple[Thing, ...], background: str) -> Prompt:
    """Such as `a red circle in the top left, a blue star in the bottom right, on a gray background`."""
    parts = [f"a {thing.color} {thing.shape} in the {thing.quadrant}" for thing in things]
    return Prompt(DENSE, f"{', '.join(parts)}, on a {background} background", things, None, background)


def training_prompt(style: str, rng: random.Random) -> Prompt:
    """Draw one training prompt of `style`; it never holds a held-out pair."""
    return _DRAWS[style](rng)


def training_prompts(count: int, rng: random.Random) -> Iterator[Prompt]:
    """Draw `count` training prompts (with repetitions) with the world's mix of styles."""
    styles, weights = list(STYLE_WEIGHTS), list(STYLE_WEIGHTS.values())
    for style in rng.choices(styles, weights, k=count):
        yield training_prompt(style, rng)


def is_held_out(prompt: Prompt) -> bool:
    """Whether `prompt` holds a pair that is reserved for the benchmarks."""
    things = prompt.things
    if any((thing.color, thing.shape) in HELD_OUT_COLORED for thing in things):
        return True
    if prompt.style == "single_object":
        return (things[0].shape, prompt.background) in HELD_OUT_BACKED
    if prompt.style == "counting":
        return (things[0].count, things[0].shape) in HELD_OUT_COUNTED
    return any((a.shape, b.shape) in HELD_OUT_ORDERED for a, b in itertools.pairwise(things))


def words() -> list[str]:
    """Every word and sign that any caption uses, sorted: the vocabulary of the embedded source's tokenizer."""
    text = [*OPENINGS, *SHAPES, *PLURALS.values(), *COLORS, *BACKGROUNDS, *RELATIONS, *QUADRANTS]
    text += [*NUMBER_WORDS.values(), "a and in the on background ,"]
    return sorted({word for phrase in text for word in phrase.split()})


def _close(text: str, background: str | None) -> str:
    return text if background is None else f"{text} on a {background} background"


def _keep_drawing(draw: Callable[[random.Random], Prompt]) -> Callable[[random.Random], Prompt]:
    """Rejection sampling: draw until the prompt belongs to the training side."""

    def until_allowed(rng: random.Random) -> Prompt:
        prompt = draw(rng)
        while is_held_out(prompt):
            prompt = draw(rng)
        return prompt

    return until_allowed


def _draw_background(rng: random.Random) -> str | None:
    return rng.choice(_STATED_BACKGROUNDS)


def _draw_color_attr(rng: random.Random) -> Prompt:
    first, second = rng.sample(SHAPES, 2)
    one, other = rng.sample(list(COLORS), 2)
    return color_attr(rng.choice(OPENINGS), Thing(first, one), Thing(second, other), _draw_background(rng))


def _draw_dense(rng: random.Random) -> Prompt:
    count = rng.choice((2, 3))
    places = rng.sample(list(QUADRANTS), count)
    things = []
    for place in places:
        color, shape = rng.choice(_COLORED)
        things.append(Thing(shape, color, quadrant=place))
    return dense(tuple(things), rng.choice(list(BACKGROUNDS)))


_DRAWS: dict[str, Callable[[random.Random], Prompt]] = {
    "single_object": _keep_drawing(
        lambda rng: single_object(rng.choice(OPENINGS), rng.choice(SHAPES), _draw_background(rng))
    ),
    "two_object": _keep_drawing(
        lambda rng: two_object(rng.choice(OPENINGS), *rng.choice(_SHAPE_PAIRS), _draw_background(rng))
    ),
    "counting": _keep_drawing(
        lambda rng: counting(rng.choice(OPENINGS), rng.choice(_COUNTS), rng.choice(SHAPES), _draw_background(rng))
    ),
    "colors": _keep_drawing(lambda rng: colors(rng.choice(OPENINGS), *rng.choice(_COLORED), _draw_background(rng))),
    "position": _keep_drawing(lambda rng: _draw_position(rng)),
    "color_attr": _keep_drawing(_draw_color_attr),
    DENSE: _keep_drawing(_draw_dense),
}


def _draw_position(rng: random.Random) -> Prompt:
    first, second = rng.choice(_SHAPE_PAIRS)
    return position(rng.choice(OPENINGS), first, rng.choice(list(RELATIONS)), second, _draw_background(rng))
