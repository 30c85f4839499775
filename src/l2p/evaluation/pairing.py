"""Owns comparing two evaluations part by part: tags or categories with intervals, and which differences are real.

Both models drew the same prompts, so differences have paired intervals: prompts are resampled (GenEval within each tag)
and both models are scored on the same resample. Marks are corrected for the number of rows (Holm, family-wise 5 %).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from l2p.errors import EvaluationError
from l2p.evaluation import dpg, geneval
from l2p.evaluation.retention import read_rows
from l2p.evaluation.scores import Interval, check_comparable, percentile_interval, resample
from l2p.files import read_json

ALPHA = 0.05
OVERALL = "overall"
_WRITTEN_BY = "l2p evaluate"

Rows = Sequence[dict[str, Any]]
Sums = dict[str, dict[str, tuple[float, float]]]  # part -> prompt -> (sum of scores, their number)


@dataclass(frozen=True)
class Part:
    """A row of the comparison, in the benchmark's own scale; `significant` after the correction for all rows."""

    name: str
    a: float
    a_interval: Interval
    b: float
    b_interval: Interval
    difference: float
    difference_interval: Interval
    p_value: float
    significant: bool = False

    @property
    def verdict(self) -> str:
        """What the difference says of B."""
        if not self.significant:
            return ""
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Pairing:
    """Two evaluations of one benchmark: `digits` after the point, cards, the rows, and the prompts in common."""

    benchmark: str
    digits: int
    cards: tuple[dict[str, Any], dict[str, Any]]
    parts: tuple[Part, ...]
    n_prompts: int


def pair(a: Path, b: Path) -> Pairing:
    """Compare the results in two folders of one benchmark.

    Raises:
        MissingFileError: no evaluation was finished there.
        EvaluationError: they were measured differently, or have no prompt in common.
    """
    cards = tuple(read_json(folder / geneval.SCORES, written_by=_WRITTEN_BY)["card"] for folder in (a, b))
    check_comparable(*cards)
    if cards[0]["benchmark"] == "geneval":
        sums = [_geneval_sums(read_rows(folder / geneval.RESULTS, _WRITTEN_BY)) for folder in (a, b)]
        scale, digits, mean_of_parts = 1.0, 3, True
    else:
        rows = [read_rows(folder / dpg.ANSWERS, _WRITTEN_BY) for folder in (a, b)]
        sums = [_dpg_sums(found, cards[0]["protocol"]) for found in rows]
        scale, digits, mean_of_parts = dpg.PERCENT, 1, False
    prompts = _common(sums)
    parts = _compare(sums, prompts, scale=scale, mean_of_parts=mean_of_parts)
    return Pairing(cards[0]["benchmark"], digits, (cards[0], cards[1]), _mark(parts), len(prompts))


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which hypotheses are rejected by Holm's step-down procedure (Scand. J. Statist. 6, 1979) at level `alpha`."""
    rejected = [False] * len(p_values)
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] > alpha / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected


def _geneval_sums(rows: Rows) -> Sums:
    scores = geneval.prompt_scores(rows)
    return {
        tag: {prompt: (scores.values[prompt], 1.0) for prompt in prompts}
        for tag, prompts in scores.by_stratum().items()
    }


def _dpg_sums(rows: Rows, protocol: str) -> Sums:
    """The overall score, and answers before zeroing by broad and detailed category (official: last image)."""
    sums: Sums = {OVERALL: {item: (score, 1.0) for item, score in dpg.item_scores(rows).values.items()}}
    last = {row["item_id"]: row["tile"] for row in rows}
    detailed: Sums = {}
    for row in rows:
        if row["score"] is None or (protocol == "official" and row["tile"] != last[row["item_id"]]):
            continue
        for number, category in row.get("categories", {}).items():
            yes = float(row["answers"] is not None and row["answers"][number] == dpg.YES)
            for target, name in ((sums, category.split("-")[0].strip()), (detailed, category)):
                old = target.setdefault(name, {}).get(row["item_id"], (0.0, 0.0))
                target[name][row["item_id"]] = (old[0] + yes, old[1] + 1)
    broad = {name: sums[name] for name in [OVERALL, *sorted(set(sums) - {OVERALL})]}
    return broad | {name: detailed[name] for name in sorted(detailed) if name not in broad}


def _common(sums: Sequence[Sums]) -> list[tuple[str, int]]:
    """(prompt, number of its stratum) of the prompts that both have; GenEval's strata are its parts."""
    if OVERALL in sums[0]:
        prompts = [(prompt, 0) for prompt in sums[0][OVERALL] if prompt in sums[1].get(OVERALL, {})]
    else:
        prompts = [
            (prompt, number)
            for number, (tag, values) in enumerate(sums[0].items())
            for prompt in values
            if prompt in sums[1].get(tag, {})
        ]
    if not prompts:
        raise EvaluationError("the two evaluations have no prompt in common, so there is nothing to compare.")
    return prompts


def _compare(
    sums: Sequence[Sums], prompts: Sequence[tuple[str, int]], *, scale: float, mean_of_parts: bool
) -> list[Part]:
    weights = np.vstack([np.ones(len(prompts)), resample([stratum for _, stratum in prompts])])
    names = [name for name in sums[0] if name in sums[1]]
    drawn = [{name: _weighted(found[name], prompts, weights) for name in names} for found in sums]
    if mean_of_parts:
        drawn = [{OVERALL: np.mean(list(of.values()), axis=0), **of} for of in drawn]
    return [_part(name, scale * drawn[0][name], scale * drawn[1][name]) for name in drawn[0]]


def _weighted(
    values: Mapping[str, tuple[float, float]], prompts: Sequence[tuple[str, int]], weights: np.ndarray
) -> np.ndarray:
    """Mean score for each row of weights [1 + RESAMPLES, n]; a resample without the part has the mean of all."""
    totals = np.array([values.get(prompt, (0.0, 0.0)) for prompt, _ in prompts])
    scores, numbers = (weights @ totals).T
    return np.where(numbers > 0, scores / np.maximum(numbers, 1e-12), scores[0] / max(numbers[0], 1e-12))


def _part(name: str, a: np.ndarray, b: np.ndarray) -> Part:
    """`a` and `b` are the score itself, then those of the resamples."""
    difference = b - a
    tail = min(np.mean(difference[1:] <= 0), np.mean(difference[1:] >= 0))
    return Part(
        name,
        float(a[0]),
        percentile_interval(a[1:]),
        float(b[0]),
        percentile_interval(b[1:]),
        float(difference[0]),
        percentile_interval(difference[1:]),
        p_value=min(1.0, 2 * max(float(tail), 1 / len(difference))),
    )


def _mark(parts: Sequence[Part]) -> tuple[Part, ...]:
    rejected = holm([part.p_value for part in parts])
    return tuple(replace(part, significant=real) for part, real in zip(parts, rejected, strict=True))
