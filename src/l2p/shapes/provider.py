"""Owns the training prompts of the shapes world as a prompt set: unique, in the world's mix of styles, never held out.

The draw is one sequence: a larger `count` with the same seed begins with the same prompts.
"""

from __future__ import annotations

import random

from l2p.errors import DataError
from l2p.shapes.captions import STYLE_WEIGHTS, training_prompt

MAX_COUNT = 250_000  # about half of what exists; above it the draw would mostly repeat itself
MAX_TRIES = 500  # draws without a new prompt after which a style counts as used up


def prompts(count: int, seed: int) -> list[dict[str, str]]:
    """Draw `count` different training prompts.

    A style that has no new prompt left is dropped and its share goes to the others.

    Args:
        count: number of prompts.
        seed: seed of the draw.

    Returns:
        Dictionaries with `text` and `style`, in the order of the draw.

    Raises:
        DataError: the world has too few different prompts for `count`.
    """
    if count > MAX_COUNT:
        raise _too_many(count, MAX_COUNT)
    rng = random.Random(seed)
    weights = dict(STYLE_WEIGHTS)
    drawn: dict[str, str] = {}
    while len(drawn) < count:
        if not weights:
            raise _too_many(count, len(drawn))
        style = rng.choices(list(weights), list(weights.values()))[0]
        text = _new_prompt(style, rng, drawn)
        if text is None:
            del weights[style]
        else:
            drawn[text] = style
    return [{"text": text, "style": style} for text, style in drawn.items()]


def _new_prompt(style: str, rng: random.Random, drawn: dict[str, str]) -> str | None:
    for _ in range(MAX_TRIES):
        text = training_prompt(style, rng).text
        if text not in drawn:
            return text
    return None


def _too_many(count: int, most: int) -> DataError:
    return DataError(
        f"prompts.count = {count}: the shapes world gives at most {most} different training prompts. "
        "Lower prompts.count, or raise synthesize.images_per_prompt."
    )
