"""Owns what exists in the shapes world: vocabulary, palette, prompts as facts, and the scenes that show them.

Convention: positions and radii are in pixels of a 64x64 canvas, origin at the top left, y down. The world has a strong
prior, as the real one has: an unstated colour is the typical one of its shape, an unstated background is white, and the
number of objects fixes where they stand up to a few pixels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SIZE_PX = 64

SHAPES = ("circle", "square", "triangle", "star")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "star": "stars"}
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 210),
    "yellow": (240, 200, 20),
    "purple": (140, 50, 170),
    "black": (25, 25, 25),
}
BACKGROUNDS = {
    "white": (250, 250, 250),
    "gray": (205, 205, 205),
    "pink": (250, 205, 220),
    "cyan": (190, 236, 245),
}
TYPICAL_COLOR = {"circle": "red", "square": "blue", "triangle": "green", "star": "yellow"}
TYPICAL_BACKGROUND = "white"
NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}

JITTER_PX = 2.5
RADIUS_FEW_PX = (10.0, 12.0)  # one or two objects
RADIUS_MANY_PX = (9.0, 11.0)  # three or four objects
NEAR_PX, MIDDLE_PX, FAR_PX = 17, 32, 47  # the three places along an axis

LAYOUTS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((MIDDLE_PX, MIDDLE_PX),),
    2: ((NEAR_PX, MIDDLE_PX), (FAR_PX, MIDDLE_PX)),
    3: ((NEAR_PX, NEAR_PX), (FAR_PX, NEAR_PX), (MIDDLE_PX, FAR_PX)),
    4: ((NEAR_PX, NEAR_PX), (FAR_PX, NEAR_PX), (NEAR_PX, FAR_PX), (FAR_PX, FAR_PX)),
}
RELATIONS: dict[str, tuple[tuple[int, int], ...]] = {
    "left of": ((NEAR_PX, MIDDLE_PX), (FAR_PX, MIDDLE_PX)),
    "right of": ((FAR_PX, MIDDLE_PX), (NEAR_PX, MIDDLE_PX)),
    "above": ((MIDDLE_PX, NEAR_PX), (MIDDLE_PX, FAR_PX)),
    "below": ((MIDDLE_PX, FAR_PX), (MIDDLE_PX, NEAR_PX)),
}
QUADRANTS: dict[str, tuple[int, int]] = {
    "top left": (NEAR_PX, NEAR_PX),
    "top right": (FAR_PX, NEAR_PX),
    "bottom left": (NEAR_PX, FAR_PX),
    "bottom right": (FAR_PX, FAR_PX),
}

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
DENSE = "dense"


@dataclass(frozen=True)
class Thing:
    """What a prompt says of one object (or of `count` equal ones); None means unstated."""

    shape: str
    color: str | None = None
    count: int = 1
    quadrant: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A caption as facts. `style` is a GenEval task or "dense"; `text` is what a text encoder reads."""

    style: str
    text: str
    things: tuple[Thing, ...]
    relation: str | None = None
    background: str | None = None


@dataclass(frozen=True)
class Item:
    """One drawn object: centre and radius in pixels."""

    shape: str
    color: str
    x_px: float
    y_px: float
    radius_px: float


@dataclass(frozen=True)
class Scene:
    """Everything a renderer needs."""

    background: str
    items: tuple[Item, ...]


def draw_scene(prompt: Prompt, rng: random.Random) -> Scene:
    """Draw one scene that shows `prompt`, with the world's prior for whatever is unstated."""
    kinds = [thing for thing in prompt.things for _ in range(thing.count)]
    low, high = RADIUS_FEW_PX if len(kinds) <= 2 else RADIUS_MANY_PX
    items = []
    for thing, (x, y) in zip(kinds, _places(prompt, len(kinds)), strict=True):
        color = thing.color or TYPICAL_COLOR[thing.shape]
        dx, dy = rng.uniform(-JITTER_PX, JITTER_PX), rng.uniform(-JITTER_PX, JITTER_PX)
        items.append(Item(thing.shape, color, x + dx, y + dy, rng.uniform(low, high)))
    return Scene(prompt.background or TYPICAL_BACKGROUND, tuple(items))


def _places(prompt: Prompt, count: int) -> tuple[tuple[int, int], ...]:
    if prompt.relation is not None:
        return RELATIONS[prompt.relation]
    if prompt.style == DENSE:
        return tuple(QUADRANTS[thing.quadrant] for thing in prompt.things if thing.quadrant is not None)
    return LAYOUTS[count]
