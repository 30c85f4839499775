"""Judges: what looks at an image and says what is there. They are found by name and loaded only when asked for."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import cast

from l2p.errors import EvaluationError
from l2p.evaluation.judges.base import ObjectJudge, QuestionAnswerer

# name -> "module:factory"; a factory takes the device ("cpu", "cuda") and returns the judge.
OBJECT_JUDGES = {"shapes": "l2p.shapes.judges:object_judge"}
QUESTION_JUDGES = {"shapes": "l2p.shapes.judges:question_judge"}


def get_object_judge(name: str, *, device: str = "cpu") -> ObjectJudge:
    """GenEval's judge called `name`.

    Raises:
        EvaluationError: no such judge; the message lists those there are.
    """
    return cast(ObjectJudge, _make(OBJECT_JUDGES, name, device, "geneval.judge"))


def get_question_judge(name: str, *, device: str = "cpu") -> QuestionAnswerer:
    """DPG-Bench's judge called `name`.

    Raises:
        EvaluationError: no such judge; the message lists those there are.
    """
    return cast(QuestionAnswerer, _make(QUESTION_JUDGES, name, device, "dpg.judge"))


def _make(registry: dict[str, str], name: str, device: str, field: str) -> object:
    if name not in registry:
        raise EvaluationError(f"{field} = {name!r}: no such judge; known: {', '.join(sorted(registry))}.")
    return resolve_name(registry[name])(device)
