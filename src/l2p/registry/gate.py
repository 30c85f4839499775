"""Owns the decision whether a model may become the champion: a pure function of figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

TITLES = {"geneval": "GenEval", "dpg": "DPG-Bench"}

# Retentions that differ by less are equal: they come from means of floats.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Thresholds:
    """Smallest retentions (converted score / source score) of a champion."""

    geneval: float
    dpg: float


@dataclass(frozen=True)
class Decision:
    """Whether the gate opens, and why, as sentences."""

    passed: bool
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return asdict(self) | {"reasons": list(self.reasons)}


def scores_of(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures of reports/summary.json that the gate looks at, per benchmark."""
    fields = ("source", "pixel", "retention", "interval")
    return {name: {field: summary[name][field] for field in fields} for name in TITLES}


def decide(
    scores: Mapping[str, Mapping[str, Any]],
    thresholds: Thresholds,
    champion: Mapping[str, Mapping[str, Any]] | None = None,
) -> Decision:
    """Decide whether a candidate may become the champion.

    It must reach both thresholds and must not fall behind the present champion in either benchmark, so that no
    benchmark is ever traded for the other. Thresholds are held against the measured retention; the lower bound of its
    95 % interval is stated, so that a reader sees how sure that is.

    Args:
        scores: of the candidate, as `scores_of` returns them.
        thresholds: smallest retentions.
        champion: scores of the present champion, if there is one.
    """
    passed = True
    reasons: list[str] = []
    for name, title in TITLES.items():
        reached, reason = _reaches(title, scores[name], getattr(thresholds, name))
        passed, reasons = passed and reached, [*reasons, reason]
        if champion is not None:
            holds, reason = _holds(title, scores[name], champion[name])
            passed, reasons = passed and holds, [*reasons, reason]
    if champion is None:
        reasons.append("There is no champion to compare with.")
    return Decision(passed, tuple(reasons))


def _reaches(title: str, score: Mapping[str, Any], smallest: float) -> tuple[bool, str]:
    retention = _number(score["retention"])
    if retention is None:
        return False, f"{title} retention was not measured: the source scored {score['source']}."
    reached = retention >= smallest - _TOLERANCE
    return reached, (
        f"{title} retention {retention:.3f} {'reaches' if reached else 'is below'} the required {smallest:.3f} "
        f"({_lower_bound(score['interval'])})."
    )


def _holds(title: str, score: Mapping[str, Any], champion: Mapping[str, Any]) -> tuple[bool, str]:
    own, other = _number(score["retention"]), _number(champion["retention"])
    if own is None:
        return False, f"{title}: nothing to compare with the champion's."
    if other is None:
        return True, f"{title}: the champion's retention was not measured."
    holds = own >= other - _TOLERANCE
    return (
        holds,
        f"{title} retention {own:.3f} {'is at least' if holds else 'falls behind'} the champion's {other:.3f}.",
    )


def _lower_bound(interval: Any) -> str:
    if interval is None:
        return "no interval: a resample of the source scored 0"
    return f"95 % interval from {interval[0]:.3f}"


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
