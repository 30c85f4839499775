"""Owns retention, what a conversion is judged by: converted score / source score, same prompts, seeds and judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from l2p.config import Layout
from l2p.errors import DataError, MissingFileError
from l2p.evaluation import dpg, geneval
from l2p.evaluation.scores import PromptScores, Retention, check_comparable, retention
from l2p.files import read_json

MODELS = ("source", "pixel")


def geneval_retention(folder: Path = Layout.geneval) -> Retention:
    """Retention on GenEval, from `folder`/{source,pixel}; scores 0..1, bootstrap within tags.

    Raises:
        MissingFileError: a model was not scored yet.
        EvaluationError: the two scores were measured differently.
    """
    return _retention(folder, geneval.RESULTS, geneval.prompt_scores, "l2p geneval")


def dpg_retention(folder: Path = Layout.dpg) -> Retention:
    """Retention on DPG-Bench, from `folder`/{source,pixel}; scores 0..1.

    Raises:
        MissingFileError: a model was not scored yet.
        EvaluationError: the two scores were measured differently.
    """
    return _retention(folder, dpg.ANSWERS, dpg.item_scores, "l2p dpg")


def _retention(
    folder: Path, table: str, score: Callable[[Sequence[dict[str, Any]]], PromptScores], command: str
) -> Retention:
    cards = [
        read_json(folder / model / geneval.SCORES, written_by=f"{command} --model {model}")["card"] for model in MODELS
    ]
    check_comparable(*cards)
    source, pixel = (score(read_rows(folder / model / table, f"{command} --model {model}")) for model in MODELS)
    return retention(source, pixel)


def read_rows(path: Path, written_by: str) -> list[dict[str, Any]]:
    """Rows of a JSON lines file.

    Raises:
        MissingFileError: `written_by` has not run.
        DataError: a line is not JSON.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. `{written_by}` writes it; run that first.")
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON lines ({error}). Delete it and run `{written_by}` again.") from error
