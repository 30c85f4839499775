"""Judges: what looks at an image and says what is there. They are found by name and loaded only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, cast

from l2p.config import validate_section
from l2p.errors import EvaluationError
from l2p.evaluation.judges.base import ObjectJudge, QuestionAnswerer


@dataclass(frozen=True)
class _Entry:
    """Where a judge is found: "module:factory", and the "module:class" of its options.

    The factory takes the options and the device ("cpu", "cuda") and returns the judge.
    """

    factory: str
    options: str


_NO_OPTIONS = "l2p.evaluation.judges.base:JudgeOptions"

OBJECT_JUDGES = {
    "mask2former": _Entry(
        "l2p.evaluation.judges.mask2former:object_judge", "l2p.evaluation.judges.mask2former:Mask2FormerOptions"
    ),
    "shapes": _Entry("l2p.shapes.judges:object_judge", _NO_OPTIONS),
}
QUESTION_JUDGES = {
    "mplug": _Entry("l2p.evaluation.judges.mplug:question_judge", "l2p.evaluation.judges.mplug:MplugOptions"),
    "shapes": _Entry("l2p.shapes.judges:question_judge", _NO_OPTIONS),
    "vqa": _Entry("l2p.evaluation.judges.vqa:question_judge", "l2p.evaluation.judges.vqa:VqaOptions"),
}


def get_object_judge(name: str, options: Mapping[str, Any] | None = None, *, device: str = "cpu") -> ObjectJudge:
    """GenEval's judge called `name`.

    Raises:
        EvaluationError: no such judge; the message lists those there are.
        ConfigError: an option that it does not have, or a value that cannot be.
    """
    return cast(ObjectJudge, _make(OBJECT_JUDGES, name, options, device, "geneval"))


def get_question_judge(name: str, options: Mapping[str, Any] | None = None, *, device: str = "cpu") -> QuestionAnswerer:
    """DPG-Bench's judge called `name`.

    Raises:
        EvaluationError: no such judge; the message lists those there are.
        ConfigError: an option that it does not have, or a value that cannot be.
    """
    return cast(QuestionAnswerer, _make(QUESTION_JUDGES, name, options, device, "dpg"))


def _make(
    registry: Mapping[str, _Entry], name: str, options: Mapping[str, Any] | None, device: str, section: str
) -> object:
    if name not in registry:
        raise EvaluationError(f"{section}.judge = {name!r}: no such judge; known: {', '.join(sorted(registry))}.")
    entry = registry[name]
    chosen = validate_section(resolve_name(entry.options), options or {}, f"{section}.judge_options")
    return resolve_name(entry.factory)(chosen, device)
