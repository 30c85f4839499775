"""Intervals and retention."""

from __future__ import annotations

import numpy as np
import pytest

from l2p.errors import EvaluationError
from l2p.evaluation.scores import COMPARABLE_FIELDS, PromptScores, bootstrap, check_comparable, retention


def scores(**strata: list[float]) -> PromptScores:
    values = {f"{name}{n}": value for name, given in strata.items() for n, value in enumerate(given)}
    return PromptScores(values, {prompt: prompt.rstrip("0123456789") for prompt in values})


def draw(rng: np.random.Generator, p: float, count: int = 60) -> PromptScores:
    """Four images for each of `count` prompts."""
    return scores(all=list(rng.binomial(4, p, count) / 4))


def test_overall_is_the_unweighted_mean_over_tags():
    given = scores(easy=[1.0] * 9, hard=[0.0])
    assert given.overall() == 0.5
    assert given.stratum_means() == {"easy": 1.0, "hard": 0.0}


def test_there_is_no_score_without_prompts():
    with pytest.raises(EvaluationError, match="no prompt"):
        scores().overall()


def test_the_same_scores_give_the_same_interval_and_another_seed_another_one():
    given = draw(np.random.default_rng(1), 0.7)
    assert bootstrap(given) == bootstrap(given)
    assert bootstrap(given) != bootstrap(given, seed=1)


def test_an_interval_contains_the_score_and_shrinks_with_more_prompts():
    rng = np.random.default_rng(2)
    few, many = draw(rng, 0.7, 20), draw(rng, 0.7, 500)
    widths = []
    for given in (few, many):
        (low, high), _ = bootstrap(given)
        assert low < given.overall() < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_strata_are_resampled_within_themselves():
    (low, high), by_tag = bootstrap(scores(always=[1.0] * 5, never=[0.0] * 50))
    assert (low, high) == (0.5, 0.5)
    assert by_tag == {"always": (1.0, 1.0), "never": (0.0, 0.0)}


def test_about_95_percent_of_intervals_contain_the_truth():
    rng = np.random.default_rng(3)
    truth, repeats = 0.7, 200
    intervals = [bootstrap(draw(rng, truth))[0] for _ in range(repeats)]
    share = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.89 <= share <= 0.99


def test_retention_is_the_ratio_with_an_interval_around_it():
    rng = np.random.default_rng(4)
    kept = retention(draw(rng, 0.8), draw(rng, 0.7))
    assert kept.value == pytest.approx(kept.pixel / kept.source)
    low, high = kept.interval
    assert low < kept.value < high


def test_retention_of_equal_scores_is_certain_because_prompts_are_paired():
    given = draw(np.random.default_rng(5), 0.6)
    kept = retention(given, given)
    assert (kept.value, kept.interval) == (1.0, (1.0, 1.0))


def test_retention_uses_the_prompts_that_both_have():
    kept = retention(scores(a=[1.0, 1.0, 1.0]), scores(a=[0.5, 1.0]))
    assert kept.n_prompts == 2
    assert kept.value == 0.75


def test_there_is_no_retention_of_a_source_that_scores_nothing():
    kept = retention(scores(a=[0.0, 0.0]), scores(a=[0.0, 1.0]))
    assert (kept.value, kept.interval) == (None, None)


def test_a_source_that_could_score_nothing_by_chance_has_no_interval():
    kept = retention(scores(a=[0.0, 1.0]), scores(a=[0.0, 1.0]))
    assert (kept.value, kept.interval) == (1.0, None)


@pytest.mark.parametrize("field", COMPARABLE_FIELDS)
def test_scores_measured_differently_are_not_compared(field: str):
    card = dict.fromkeys(COMPARABLE_FIELDS, "same")
    check_comparable(card, dict(card))
    with pytest.raises(EvaluationError, match=f"`{field}`"):
        check_comparable(card, card | {field: "other"})
