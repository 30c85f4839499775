from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.evaluation import drift_table, verdict
from flows.judging import RESULT, begin
from l2p.registry.drift import DRIFT_TAG, Drift, Verdict, find_drift, record_drift
from l2p.registry.store import Store
from l2p.registry.versions import TAG_PREFIX, ModelRegistry


def score(retention: float | None, interval: tuple[float, float] | None = (0.9, 1.0)) -> dict[str, Any]:
    return {"source": 0.8, "pixel": 0.76, "retention": retention, "interval": interval}


def drifts(geneval: dict[str, Any], dpg: dict[str, Any] | None = None) -> list[Drift]:
    recorded = {"geneval": score(0.95), "dpg": score(0.95)}
    return find_drift(recorded, {"geneval": geneval, "dpg": dpg or score(0.95)})


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        (0.95, Verdict.WITHIN),
        (0.9, Verdict.WITHIN),
        (1.0, Verdict.WITHIN),
        (0.899, Verdict.BELOW),
        (1.001, Verdict.ABOVE),
        (None, Verdict.LOST),
    ],
)
def test_a_retention_is_held_against_the_recorded_interval(retention: float | None, expected: Verdict) -> None:
    geneval, dpg = drifts(score(retention))
    assert geneval.verdict is expected
    assert dpg.verdict is Verdict.WITHIN


def test_without_a_recorded_interval_nothing_is_claimed() -> None:
    (geneval, _) = find_drift(
        {"geneval": score(0.95, None), "dpg": score(0.95)}, {"geneval": score(0.5), "dpg": score(0.95)}
    )
    assert geneval.verdict is Verdict.UNKNOWN
    assert geneval.told == "GenEval: retention 0.500, at registration 0.950; no interval to hold it against."


def test_drift_becomes_a_run_and_a_tag_that_verify_does_not_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("sqlite:///mlflow.db", "l2p")
    registry = ModelRegistry("sqlite:///mlflow.db")
    with store.run("register", {}) as run_id:
        pass
    version = registry.create("shapes-pixel", source=f"runs:/{run_id}/x", run_id=run_id, tags={}, description="")
    found = record_drift(store, registry, version, drifts(score(0.85)))
    tags = registry.resolve("shapes-pixel/1").tags
    assert list(tags) == [DRIFT_TAG]
    assert not DRIFT_TAG.startswith(TAG_PREFIX)
    assert json.loads(tags[DRIFT_TAG]) == {
        "run_id": found,
        "geneval": {"retention": 0.85, "verdict": "below"},
        "dpg": {"retention": 0.95, "verdict": "within"},
    }
    run = store.client.get_run(found)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["geneval.retention"] == pytest.approx(0.85)
    assert run.data.metrics["drift.geneval.retention"] == pytest.approx(-0.1)
    assert json.loads(store.fetch(found, "drift.json").read_text())[0]["verdict"] == "below"


def result(*found: Drift) -> dict[str, Any]:
    return {
        "benchmarks": [
            {
                "name": drift.benchmark,
                "recorded": drift.recorded,
                "measured": drift.measured,
                "verdict": drift.verdict.value,
                "told": drift.told,
            }
            for drift in found
        ]
    }


def test_a_fallen_retention_fails_the_run_and_a_risen_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    monkeypatch.setattr("flows.evaluation.get_run_logger", lambda: logging.getLogger("flow"))
    fallen = verdict(result(*drifts(score(0.85))))
    assert fallen.is_failed()
    assert fallen.name == "Drifted"
    assert fallen.message == (
        "GenEval: retention 0.850 is below the interval 0.900 to 1.000 of the registration (0.950)."
    )
    assert verdict(result(*drifts(score(1.1)))).is_completed()
    assert verdict(result(*drifts(score(None)))).is_failed()


def test_the_table_has_a_row_per_benchmark() -> None:
    rows = drift_table(result(*drifts(score(0.85))))
    assert [row["benchmark"] for row in rows] == ["geneval", "dpg"]
    assert rows[0]["retention then"] == "0.950"
    assert rows[0]["95 % interval"] == "0.900 to 1.000"
    assert (rows[0]["retention now"], rows[0]["verdict"]) == ("0.850", "below")


def test_an_interrupted_evaluation_is_kept_and_a_finished_one_begun_anew(tmp_path: Path) -> None:
    folder = begin(tmp_path / "shapes-pixel/1")
    (folder / "image.png").touch()
    assert (begin(folder) / "image.png").is_file()
    (folder / RESULT).write_text("{}")
    assert list(begin(folder).iterdir()) == []
