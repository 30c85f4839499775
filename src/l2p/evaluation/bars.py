"""Owns score bars: what each benchmark's scores look like as bars in percent of one axis, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TAG_TITLES = {
    "single_object": "one object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour of each",
}
OVERALL = "overall"
_PERCENT = 100.0


@dataclass(frozen=True)
class Score:
    """A score and its interval (where there is one), in percent of the axis."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bar:
    """Scores of each model in one part of a benchmark, by the name of the model."""

    label: str
    scores: dict[str, Score]


def geneval_bars(scores: Mapping[str, Any]) -> list[Bar]:
    """Overall and each task, with intervals; `scores` are scores.json by model."""
    bars = [Bar(OVERALL, {name: _score(of["overall"], of["interval"], _PERCENT) for name, of in scores.items()})]
    for tag in _common(scores, "tags"):
        of_tag = {name: _score(of["tags"][tag], of["tag_intervals"][tag], _PERCENT) for name, of in scores.items()}
        bars.append(Bar(TAG_TITLES.get(tag, tag), of_tag))
    return bars


def dpg_bars(scores: Mapping[str, Any]) -> list[Bar]:
    """Overall, with its interval, and each category; `scores` are scores.json by model."""
    bars = [Bar(OVERALL, {name: _score(of["overall"], of["interval"], 1.0) for name, of in scores.items()})]
    for category in _common(scores, "categories"):
        bars.append(Bar(category, {name: Score(of["categories"][category]) for name, of in scores.items()}))
    return bars


def _score(value: float, interval: tuple[float, float], scale: float) -> Score:
    low, high = interval
    return Score(scale * value, (scale * low, scale * high))


def _common(scores: Mapping[str, Any], part: str) -> list[str]:
    """Names of the parts that all models have, in the order of the first."""
    first, *others = (of[part] for of in scores.values())
    return [name for name in first if all(name in other for other in others)]
