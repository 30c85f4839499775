"""Owns DPG-Bench's rules: zeroing what depends on a "no", and the score under both protocols.

`fixed` scores what the benchmark means. `official` keeps the faults of the published script (ELLA,
compute_dpg_bench.py) as far as they concern scores, for comparison with published numbers: the first row of the table
is skipped, an item that fails (also one whose parent question was on that row) is left out of the mean, and category
scores only see the last image of each item. Its other faults (category scores that vary with the number of GPUs, any
file in the folder being read) do not arise here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from l2p.evaluation.benchmark_data import DpgData, DpgItem, DpgQuestion
from l2p.evaluation.judgements import Failure
from l2p.evaluation.judges.base import QuestionAnswerer
from l2p.evaluation.scores import PromptScores, ScoreCard, bootstrap
from l2p.files import atomic_path, write_json

DpgProtocol = Literal["official", "fixed"]
IMAGES, ANSWERS, SCORES = "images", "answers.jsonl", "scores.json"
YES = "yes"
PERCENT = 100.0

Answers = Mapping[int, str]


@dataclass(frozen=True)
class Tile:
    """One image of an item: the answers by proposition id, or why there are none.

    `score` is the mean over its questions after zeroing (0 without answers); None when the protocol drops the item.
    `questions` and `categories` (the detailed ones) of what was scored are by proposition id, for whoever reads it.
    """

    item_id: str
    tile: int
    filename: str
    answers: dict[int, str] | None
    failure: str | None = None
    score: float | None = None
    zeroed: tuple[int, ...] = ()
    questions: dict[int, str] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Scores of a benchmark run, 0..1."""

    tiles: list[Tile]
    items: PromptScores
    categories: dict[str, float]
    categories_detailed: dict[str, float]
    dropped: list[Failure]


def score_answers(data: DpgData, tiles: Sequence[Tile], protocol: DpgProtocol) -> Result:
    """Score answered tiles under a protocol."""
    by_item: dict[str, list[Tile]] = {}
    for tile in sorted(tiles, key=lambda tile: tile.tile):  # workers finish in any order
        by_item.setdefault(tile.item_id, []).append(tile)
    scored: list[Tile] = []
    values: dict[str, float] = {}
    raw: list[tuple[DpgQuestion, float]] = []
    dropped: list[Failure] = []
    for item in data.items:
        own, questions = by_item[item.item_id], _asked(item, protocol)
        reason = _reason_to_drop(questions, own) if protocol == "official" else None
        if reason is not None:
            dropped.append(Failure(item.item_id, reason))
            scored += own
            continue
        own = [_score_tile(questions, tile) for tile in own]
        scored += own
        values[item.item_id] = float(np.mean([tile.score for tile in own]))
        for tile in own[-1:] if protocol == "official" else own:
            raw += [(question, _raw(question, tile.answers)) for question in questions]
    broad, detailed = _category_means(raw)
    return Result(scored, PromptScores.unstratified(values), broad, detailed, dropped)


def cascade(questions: Sequence[DpgQuestion], answers: Answers | None) -> tuple[dict[int, float], tuple[int, ...]]:
    """Scores by proposition id and the ids that were zeroed: in order, a question with a parent at 0 becomes 0."""
    scores = {question.number: _raw(question, answers) for question in questions}
    zeroed = []
    for question in questions:
        if any(scores[parent] == 0 for parent in question.parents):
            if scores[question.number] > 0:
                zeroed.append(question.number)
            scores[question.number] = 0.0
    return scores, tuple(zeroed)


def try_judge(data: DpgData, judge: QuestionAnswerer) -> None:
    """Ask the first question of a blank image: a judge that cannot read the benchmark is found before hours of drawing.

    Raises:
        EvaluationError: the judge does not understand it.
    """
    judge.answer([(np.zeros((64, 64, 3), dtype=np.uint8), data.items[0].questions[0].question)])


def write_answers(result: Result, folder: Path) -> Path:
    """Write answers.jsonl, one line per image."""
    with atomic_path(folder / ANSWERS) as partial:
        partial.write_text("".join(json.dumps(asdict(tile)) + "\n" for tile in result.tiles), encoding="utf-8")
    return folder / ANSWERS


def write_scores(result: Result, folder: Path, card: ScoreCard) -> dict[str, Any]:
    """Write scores.json, everything in 0..100: overall, categories, interval, and the card; returns it."""
    interval, _ = bootstrap(result.items)
    scores = {
        "overall": PERCENT * result.items.overall(),
        "interval": [PERCENT * value for value in interval],
        "categories": {name: PERCENT * value for name, value in result.categories.items()},
        "categories_detailed": {name: PERCENT * value for name, value in result.categories_detailed.items()},
        "card": card.to_json(),
    }
    write_json(folder / SCORES, scores)
    return scores


def item_scores(rows: Sequence[dict[str, Any]]) -> PromptScores:
    """Mean score of each item from the lines of answers.jsonl, 0..1; items that the protocol dropped are not in it."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["score"] is not None:
            scores.setdefault(row["item_id"], []).append(row["score"])
    return PromptScores.unstratified({item: float(np.mean(values)) for item, values in scores.items()})


def _asked(item: DpgItem, protocol: DpgProtocol) -> list[DpgQuestion]:
    """The official script skips the table's first row."""
    return [question for question in item.questions if protocol == "fixed" or question.row > 0]


def _reason_to_drop(questions: Sequence[DpgQuestion], tiles: Sequence[Tile]) -> str | None:
    """Why the official script loses an item: an exception, which it catches around the whole item."""
    if not questions:
        return "its only question is on the first row, which the official script skips"
    numbers = {question.number for question in questions}
    if any(parent not in numbers for question in questions for parent in question.parents):
        return "a parent question is on the first row, which the official script skips"
    if any(tile.answers is None for tile in tiles):
        return "one of its images could not be judged"
    return None


def _score_tile(questions: Sequence[DpgQuestion], tile: Tile) -> Tile:
    scores, zeroed = cascade(questions, tile.answers)
    return replace(
        tile,
        score=float(np.mean(list(scores.values()))),
        zeroed=zeroed,
        questions={question.number: question.question for question in questions},
        categories={question.number: question.category for question in questions},
    )


def _raw(question: DpgQuestion, answers: Answers | None) -> float:
    return float(answers is not None and answers[question.number] == YES)


def _means(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}


def _category_means(raw: Sequence[tuple[DpgQuestion, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean answer per broad and per detailed category, before zeroing."""
    broad: dict[str, list[float]] = {}
    detailed: dict[str, list[float]] = {}
    for question, score in raw:
        broad.setdefault(question.broad_category, []).append(score)
        detailed.setdefault(question.category, []).append(score)
    return _means(broad), _means(detailed)
