import pytest

from l2p.registry.gate import Thresholds, decide, scores_of

THRESHOLDS = Thresholds(geneval=0.93, dpg=0.99)


def scores(geneval: float | None, dpg: float | None) -> dict[str, dict]:
    def one(retention: float | None) -> dict:
        interval = None if retention is None else [retention - 0.02, retention + 0.02]
        return {"source": 0.0 if retention is None else 0.9, "pixel": 0.8, "retention": retention, "interval": interval}

    return {"geneval": one(geneval), "dpg": one(dpg)}


@pytest.mark.parametrize(
    ("candidate", "champion", "passed"),
    [
        (scores(0.93, 0.99), None, True),  # exactly the thresholds
        (scores(0.93 - 1e-12, 0.99), None, True),  # rounding is no reason
        (scores(0.929, 0.99), None, False),
        (scores(0.93, 0.989), None, False),
        (scores(1.02, 1.01), None, True),
        (scores(None, 1.0), None, False),
        (scores(1.0, None), None, False),
        (scores(float("nan"), 1.0), None, False),
        (scores(0.95, 1.00), scores(0.95, 1.00), True),  # equals
        (scores(0.96, 1.00), scores(0.95, 1.00), True),
        (scores(0.99, 0.995), scores(0.95, 1.00), False),  # one benchmark is not traded for the other
        (scores(0.94, 1.05), scores(0.95, 1.00), False),
        (scores(0.90, 1.00), scores(0.80, 0.90), False),  # beats the champion, but not the threshold
        (scores(0.93, 0.99), scores(None, 0.99), True),
    ],
)
def test_the_gate_opens_for_models_that_reach_both_thresholds_and_do_not_fall_behind_the_champion(
    candidate: dict, champion: dict | None, passed: bool
) -> None:
    assert decide(candidate, THRESHOLDS, champion).passed is passed


def test_reasons_are_sentences_with_the_figures_and_the_lower_bound() -> None:
    decision = decide(scores(0.95, 0.98), THRESHOLDS, scores(0.96, 0.97))
    assert decision.reasons == (
        "GenEval retention 0.950 reaches the required 0.930 (95 % interval from 0.930).",
        "GenEval retention 0.950 falls behind the champion's 0.960.",
        "DPG-Bench retention 0.980 is below the required 0.990 (95 % interval from 0.960).",
        "DPG-Bench retention 0.980 is at least the champion's 0.970.",
    )


def test_a_retention_that_was_not_measured_is_said_to_be_so() -> None:
    reasons = decide(scores(None, 1.0), THRESHOLDS).reasons
    assert reasons[0] == "GenEval retention was not measured: the source scored 0.0."
    assert reasons[-1] == "There is no champion to compare with."


def test_only_what_the_gate_looks_at_is_taken_from_a_summary() -> None:
    summary = {name: score | {"tags": {}} for name, score in scores(0.9, 0.9).items()} | {"efficiency": {}}
    assert scores_of(summary) == scores(0.9, 0.9)
