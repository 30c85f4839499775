"""Owns reports/comparison.json: source against pixel model in every figure, before the model has a name and version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2p.config import Layout
from l2p.evaluation.geneval import SCORES
from l2p.evaluation.retention import MODELS, dpg_retention, geneval_retention
from l2p.evaluation.scores import Retention
from l2p.files import read_json


def compare() -> dict[str, Any]:
    """Scores and retention of both benchmarks, and efficiency; `model` and `verified` are filled in by `register`.

    Raises:
        MissingFileError: a stage before this one has not run.
        EvaluationError: the scores of the two models were measured differently.
    """
    geneval, dpg = read_scores(Layout.geneval), read_scores(Layout.dpg)
    return {
        "geneval": _benchmark(geneval, geneval_retention()) | {"tags": _side_by_side(geneval, "tags")},
        "dpg": _benchmark(dpg, dpg_retention()) | {"categories": _side_by_side(dpg, "categories")},
        "efficiency": read_json(Layout.efficiency, written_by="l2p efficiency"),
        "model": None,
        "verified": False,
    }


def read_scores(folder: Path) -> dict[str, Any]:
    """scores.json of both models of a benchmark."""
    command = f"l2p {folder.name} --model"
    return {model: read_json(folder / model / SCORES, written_by=f"{command} {model}") for model in MODELS}


def _benchmark(scores: Mapping[str, Any], kept: Retention) -> dict[str, Any]:
    overall = {model: scores[model]["overall"] for model in MODELS}
    return overall | {"retention": kept.value, "interval": kept.interval}


def _side_by_side(scores: Mapping[str, Any], part: str) -> dict[str, dict[str, float]]:
    """{name: {"source": score, "pixel": score}} of the parts of a benchmark that both models have."""
    source, pixel = (scores[model][part] for model in MODELS)
    return {name: {"source": source[name], "pixel": pixel[name]} for name in source if name in pixel}
