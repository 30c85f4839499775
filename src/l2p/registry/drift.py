"""Owns drift: the scores of a registered version measured again, held against those that it was registered with.

What a version was registered with is never changed: what was found becomes a run of its own, and a tag beside those
that begin with `l2p.` and that `l2p verify` holds against the record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from l2p.registry.entries import MetricPoint
from l2p.registry.gate import TITLES
from l2p.registry.store import Store
from l2p.registry.versions import ModelRegistry, ModelVersion

DRIFT_TAG = "drift"
RUN_KIND = "evaluation"

_FIGURES = ("source", "pixel", "retention")
# Scores are means of floats, and an interval's ends are stored as text.
_TOLERANCE = 1e-9


class Verdict(StrEnum):
    """Where a retention lies in the interval that was recorded at registration."""

    WITHIN = "within"
    BELOW = "below"
    ABOVE = "above"
    LOST = "lost"  # there is an interval, but no retention any more: the source scored 0
    UNKNOWN = "unknown"  # no interval was recorded


FALLEN = (Verdict.BELOW, Verdict.LOST)


@dataclass(frozen=True)
class Drift:
    """One benchmark: figures at registration, figures now, and what to make of them."""

    benchmark: str
    recorded: Mapping[str, Any]
    measured: Mapping[str, Any]
    verdict: Verdict

    @property
    def told(self) -> str:
        """One sentence."""
        title, now, before = TITLES[self.benchmark], self.measured["retention"], self.recorded["retention"]
        interval = self.recorded["interval"]
        if self.verdict is Verdict.UNKNOWN:
            return (
                f"{title}: retention {_number(now)}, at registration {_number(before)}; no interval to hold it against."
            )
        if self.verdict is Verdict.LOST:
            return f"{title}: no retention any more, as the source scored {self.measured['source']}; {before:.3f} then."
        return (
            f"{title}: retention {now:.3f} is {self.verdict} the interval {interval[0]:.3f} to {interval[1]:.3f} "
            f"of the registration ({_number(before)})."
        )


def find_drift(recorded: Mapping[str, Mapping[str, Any]], measured: Mapping[str, Mapping[str, Any]]) -> list[Drift]:
    """Compare two sets of scores, each {benchmark: {source, pixel, retention, interval}}, benchmark by benchmark."""
    return [
        Drift(name, recorded[name], measured[name], _verdict(measured[name]["retention"], recorded[name]["interval"]))
        for name in TITLES
    ]


def record_drift(store: Store, registry: ModelRegistry, version: ModelVersion, drifts: Sequence[Drift]) -> str:
    """Record an evaluation as a finished run with its figures, and as a tag of the version; returns the run's id."""
    tags = {"l2p.kind": RUN_KIND, "l2p.version": str(version)}
    with store.run(f"evaluate {version}", tags) as run_id:
        store.log_metrics(run_id, _points(drifts))
        store.log_json(run_id, [asdict(drift) for drift in drifts], "drift.json")
    found = {
        drift.benchmark: {"retention": drift.measured["retention"], "verdict": drift.verdict.value} for drift in drifts
    }
    registry.set_tag(version, DRIFT_TAG, json.dumps({"run_id": run_id, **found}))
    return run_id


def _verdict(retention: float | None, interval: Sequence[float] | None) -> Verdict:
    if interval is None:
        return Verdict.UNKNOWN
    if retention is None or math.isnan(retention):
        return Verdict.LOST
    if retention < interval[0] - _TOLERANCE:
        return Verdict.BELOW
    return Verdict.ABOVE if retention > interval[1] + _TOLERANCE else Verdict.WITHIN


def _points(drifts: Sequence[Drift]) -> list[MetricPoint]:
    points = []
    for drift in drifts:
        for figure in _FIGURES:
            before, now = drift.recorded[figure], drift.measured[figure]
            if now is not None:
                points.append(MetricPoint.now(f"{drift.benchmark}.{figure}", now, 0))
            if now is not None and before is not None:
                points.append(MetricPoint.now(f"drift.{drift.benchmark}.{figure}", now - before, 0))
    return points


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
