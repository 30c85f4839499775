"""Owns how a score is stored: its card, its 95 % interval, and the retention of a converted model.

Intervals are percentile bootstraps over PROMPTS (images of one prompt are not independent), within each stratum (a
GenEval tag) when there are several. Retention resamples the same prompts for both models (a paired bootstrap).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from l2p.errors import EvaluationError
from l2p.evaluation.judgements import Failure

RESAMPLES = 2000
BOOTSTRAP_SEED = 0
_PERCENTILES = (2.5, 97.5)
ONE_STRATUM = "all"

Interval = tuple[float, float]

# Two scores may be compared only if these fields of their cards agree.
COMPARABLE_FIELDS = (
    "benchmark",
    "protocol",
    "prompts_sha256",
    "first_seed",
    "seed_formula",
    "images_per_prompt",
    "height_px",
    "width_px",
    "judge",
)


@dataclass(frozen=True)
class ScoreCard:
    """Everything one must know to compare or repeat a score; it is stored with every score.

    `model` holds name (in the pipeline "source" or "pixel") and digest, `sampler` steps, guidance scale and shift,
    `judge` name and digest. `subset` is the share of the prompts, drawn as a stratified sample. Of ready images seeds,
    sampler, device and precision are unknown: None. `failures` lists what could not be drawn or judged, `dropped` what
    the protocol itself loses (official DPG).
    """

    benchmark: str
    protocol: str
    prompts_file: str
    prompts_sha256: str
    n_prompts: int
    n_images: int
    images_per_prompt: int
    first_seed: int | None
    seed_formula: str | None
    height_px: int
    width_px: int
    model: dict[str, str]
    sampler: dict[str, Any] | None
    judge: dict[str, str]
    judge_options: dict[str, Any]
    device: str | None
    dtype: str | None
    subset: float = 1.0
    interval: str = f"95 % percentile bootstrap over prompts, {RESAMPLES} resamples, seed {BOOTSTRAP_SEED}"
    failures: list[Failure] = field(default_factory=list)
    dropped: list[Failure] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As stored in scores.json, failures also counted."""
        return asdict(self) | {"n_failures": len(self.failures), "n_dropped": len(self.dropped)}


@dataclass(frozen=True)
class PromptScores:
    """Score of each prompt (mean over its images, 0..1) and the stratum that it belongs to."""

    values: Mapping[str, float]
    strata: Mapping[str, str]

    @classmethod
    def unstratified(cls, values: Mapping[str, float]) -> PromptScores:
        """All prompts in one stratum."""
        return cls(values, dict.fromkeys(values, ONE_STRATUM))

    def by_stratum(self) -> dict[str, list[str]]:
        """Prompts of each stratum, in their own order."""
        groups: dict[str, list[str]] = {}
        for prompt in self.values:
            groups.setdefault(self.strata[prompt], []).append(prompt)
        return groups

    def stratum_means(self) -> dict[str, float]:
        """Mean score of each stratum."""
        groups = self.by_stratum()
        return {name: float(np.mean([self.values[p] for p in prompts])) for name, prompts in groups.items()}

    def overall(self) -> float:
        """Unweighted mean over the strata.

        Raises:
            EvaluationError: there is no prompt.
        """
        if not self.values:
            raise EvaluationError("no prompt was scored, so there is no score.")
        return float(np.mean(list(self.stratum_means().values())))


@dataclass(frozen=True)
class Retention:
    """Converted score / source score, on `n_prompts` common prompts.

    `value` is None when the source scores 0, `interval` also when a resample of the source does.
    """

    source: float
    pixel: float
    value: float | None
    interval: Interval | None
    n_prompts: int


def bootstrap(scores: PromptScores, *, seed: int = BOOTSTRAP_SEED) -> tuple[Interval, dict[str, Interval]]:
    """95 % intervals of the overall score and of each stratum; the same scores give the same intervals."""
    rng = np.random.default_rng(seed)
    resampled = {}
    for name, prompts in scores.by_stratum().items():
        values = np.array([scores.values[prompt] for prompt in prompts])
        resampled[name] = values[_draws(rng, len(values))].mean(axis=1)
    overall = np.mean(list(resampled.values()), axis=0)
    return percentile_interval(overall), {name: percentile_interval(means) for name, means in resampled.items()}


def retention(source: PromptScores, pixel: PromptScores, *, seed: int = BOOTSTRAP_SEED) -> Retention:
    """Retention with its paired-bootstrap interval, over the prompts that both scores hold.

    Raises:
        EvaluationError: no common prompt.
    """
    common = [prompt for prompt in source.values if prompt in pixel.values]
    both = [
        PromptScores({prompt: scores.values[prompt] for prompt in common}, source.strata) for scores in (source, pixel)
    ]
    old, new = both[0].overall(), both[1].overall()
    value = new / old if old > 0 else None
    return Retention(old, new, value, _retention_interval(both[0], both[1], seed), len(common))


def resample(strata: Sequence[int], *, seed: int = BOOTSTRAP_SEED) -> np.ndarray:
    """Bootstrap weights [RESAMPLES, n]: how often each of n prompts is drawn, within its stratum (a number each)."""
    rng = np.random.default_rng(seed)
    numbers = np.asarray(strata)
    weights = np.zeros((RESAMPLES, len(numbers)))
    for stratum in np.unique(numbers):
        places = np.flatnonzero(numbers == stratum)
        drawn = places[_draws(rng, len(places))]
        np.add.at(weights, (np.arange(RESAMPLES)[:, None], drawn), 1.0)
    return weights


def check_comparable(source: dict[str, Any], pixel: dict[str, Any]) -> None:
    """Refuse to compare scores that were measured differently; arguments are cards as stored.

    A field that is None in one of them (seeds of ready images) is unknown and does not count.

    Raises:
        EvaluationError: names the first field that differs.
    """
    for name in COMPARABLE_FIELDS:
        if source[name] != pixel[name] and None not in (source[name], pixel[name]):
            raise EvaluationError(
                f"{source['benchmark']}: the cards of source and pixel differ in `{name}` ({source[name]!r}, "
                f"{pixel[name]!r}), so there is no retention. Run the benchmark again for both."
            )


def _retention_interval(source: PromptScores, pixel: PromptScores, seed: int) -> Interval | None:
    rng = np.random.default_rng(seed)
    old_means, new_means = [], []
    for prompts in source.by_stratum().values():
        draws = _draws(rng, len(prompts))
        old_means.append(np.array([source.values[prompt] for prompt in prompts])[draws].mean(axis=1))
        new_means.append(np.array([pixel.values[prompt] for prompt in prompts])[draws].mean(axis=1))
    old, new = np.mean(old_means, axis=0), np.mean(new_means, axis=0)
    return percentile_interval(new / old) if (old > 0).all() else None


def _draws(rng: np.random.Generator, count: int) -> np.ndarray:
    """Indices [RESAMPLES, count] with replacement."""
    return rng.integers(0, count, (RESAMPLES, count))


def percentile_interval(values: np.ndarray) -> Interval:
    """Its middle 95 %."""
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)
