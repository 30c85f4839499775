"""Owns GenEval's rules: which detections count, whether an image shows its prompt, and the score over the six tasks.

Protocol of djghosh13/geneval (evaluate_images.py, summary_scores.py); layout and result columns are the official ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2p.errors import EvaluationError
from l2p.evaluation.benchmark_data import Clause, GenEvalData, GenEvalPrompt
from l2p.evaluation.judges.base import Box, Detection, ObjectJudge
from l2p.evaluation.scores import PromptScores, ScoreCard, bootstrap
from l2p.files import atomic_path, write_json

PROTOCOL = "official"
MIN_SCORE = 0.3  # detections count strictly above this
MIN_SCORE_COUNTING = 0.9
MAX_DETECTIONS_PER_CLASS = 16
POSITION_TOLERANCE = 0.1  # of the sum of both sizes, per axis
MIN_DIRECTION = 0.5  # of the unit vector between the centres
IMAGES, RESULTS, SCORES, METADATA = "images", "results.jsonl", "scores.json", "metadata.jsonl"

Groups = Mapping[str, Sequence[Detection]]
Classify = Callable[[Sequence[Detection]], list[str]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Decision:
    """Whether an image shows its prompt, and if not, why not (one line per fault)."""

    correct: bool
    reason: str


def keep_detections(detections: Sequence[Detection], tag: str) -> dict[str, list[Detection]]:
    """Detections that count for a task, by class, most certain first, at most 16 of each class."""
    minimum = MIN_SCORE_COUNTING if tag == "counting" else MIN_SCORE
    groups: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda detection: -detection.score):
        group = groups.setdefault(detection.label, []) if detection.score > minimum else []
        if len(group) < MAX_DETECTIONS_PER_CLASS:
            group.append(detection)
    return groups


def relations(box: Box, other: Box) -> set[str]:
    """Where `box` stands relative to `other`: any of left of, right of, above, below; none when they are too close."""
    corners, other_corners = np.array(box).reshape(2, 2), np.array(other).reshape(2, 2)
    offset = corners.mean(0) - other_corners.mean(0)
    sizes = np.abs(np.diff(corners, axis=0)[0]) + np.abs(np.diff(other_corners, axis=0)[0])
    clear = np.maximum(np.abs(offset) - POSITION_TOLERANCE * sizes, 0) * np.sign(offset)
    if (np.abs(clear) < 1e-3).all():
        return set()
    x, y = clear / np.linalg.norm(offset)
    holds = {
        "left of": x < -MIN_DIRECTION,
        "right of": x > MIN_DIRECTION,
        "above": y < -MIN_DIRECTION,
        "below": y > MIN_DIRECTION,
    }
    return {relation for relation, true in holds.items() if true}


def decide(prompt: GenEvalPrompt, groups: Groups, classify: Classify) -> Decision:
    """Hold detections against a prompt.

    Args:
        prompt: what the image should show.
        groups: detections that count, by class, most certain first (`keep_detections`).
        classify: names the colours of some detections of the image.
    """
    faults: list[str] = []
    matched: list[Sequence[Detection] | None] = []
    for clause in prompt.include:
        found = groups.get(clause.label, [])[: clause.count]
        fault = _clause_fault(clause, found, matched, classify)
        matched.append(found if fault is None else None)
        faults += [] if fault is None else [fault]
    for clause in prompt.exclude:
        if (count := len(groups.get(clause.label, []))) >= clause.count:
            faults.append(f"expected {clause.label}<{clause.count}, found {count}")
    return Decision(not faults, "\n".join(faults))


def check_vocabulary(data: GenEvalData, judge: ObjectJudge) -> None:
    """Refuse a benchmark whose words the judge does not know: it would score 0 without a reason.

    Raises:
        EvaluationError: names the first such word.
    """
    for prompt in data.prompts:
        for clause in (*prompt.include, *prompt.exclude):
            if clause.label not in judge.detector.labels:
                kind, word = "class", clause.label
            elif clause.color is not None and clause.color not in judge.color_classifier.colors:
                kind, word = "colour", clause.color
            else:
                continue
            raise EvaluationError(
                f"geneval.judge = {judge.name!r} knows no {kind} {word!r}, which prompt {prompt.index} of {data.name} "
                "asks for. Choose a judge that fits the benchmark."
            )


def write_metadata(data: GenEvalData, folder: Path) -> None:
    """Write `images/<index>/metadata.jsonl`, which makes the image folder readable for the official script."""
    for prompt in data.prompts:
        with atomic_path(folder / IMAGES / f"{prompt.index:05d}" / METADATA) as partial:
            partial.write_text(json.dumps(prompt.metadata), encoding="utf-8")


def write_results(rows: Sequence[Row], folder: Path) -> Path:
    """Write results.jsonl in the official columns."""
    with atomic_path(folder / RESULTS) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / RESULTS


def write_scores(rows: Sequence[Row], folder: Path, card: ScoreCard) -> dict[str, Any]:
    """Write scores.json: overall (mean over tags of image accuracy), tags, intervals, and the card; returns it."""
    prompts = prompt_scores(rows)
    interval, tag_intervals = bootstrap(prompts)
    scores = {
        "overall": prompts.overall(),
        "interval": interval,
        "tags": prompts.stratum_means(),
        "tag_intervals": tag_intervals,
        "correct_images": float(np.mean([row["correct"] for row in rows])),
        "correct_prompts": float(np.mean([value > 0 for value in prompts.values.values()])),
        "card": card.to_json(),
    }
    write_json(folder / SCORES, scores)
    return scores


def prompt_scores(rows: Sequence[Row]) -> PromptScores:
    """Share of correct images of each prompt, stratified by tag; a prompt is named by its image folder."""
    correct: dict[str, list[bool]] = {}
    tags: dict[str, str] = {}
    for row in rows:
        prompt = Path(row["filename"]).parts[-3]
        correct.setdefault(prompt, []).append(row["correct"])
        tags[prompt] = row["tag"]
    return PromptScores({prompt: float(np.mean(values)) for prompt, values in correct.items()}, tags)


def _clause_fault(
    clause: Clause, found: Sequence[Detection], matched: Sequence[Sequence[Detection] | None], classify: Classify
) -> str | None:
    """What is wrong with a clause; `matched` holds the objects of the clauses before it, None for unfulfilled ones."""
    if len(found) < clause.count:
        return f"expected {clause.label}>={clause.count}, found {len(found)}"
    if clause.color is not None:
        colors = classify(found)
        if (count := colors.count(clause.color)) < clause.count:
            seen = ", ".join(f"{colors.count(color)} {color}" for color in dict.fromkeys(colors))
            return f"expected {clause.color} {clause.label}>={clause.count}, found {count} {clause.color}; and {seen}"
    if clause.position is not None:
        relation, target = clause.position
        return _position_fault(clause.label, relation, found, matched[target])
    return None


def _position_fault(
    label: str, relation: str, found: Sequence[Detection], targets: Sequence[Detection] | None
) -> str | None:
    if targets is None:
        return f"no target for {label} to be {relation}"
    for detection in found:
        for target in targets:
            holding = relations(detection.box, target.box)
            if relation not in holding:
                seen = " and ".join(sorted(holding)) or "no relation to"
                return f"expected {label} {relation} target, found {seen} target"
    return None
