"""The judge `mplug`: what it asks of ModelScope, and what is said when it cannot be had.

ModelScope does not run beside transformers 5, so a small package stands for it here: for the names that are imported
and called, not for the model.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from l2p.errors import ConfigError, EvaluationError
from l2p.evaluation.judges import get_question_judge
from l2p.evaluation.judges.base import UnjudgeableImage

IMAGE = np.full((8, 8, 3), 200, np.uint8)
TRUST = {"trust_pickle": True}

STAND_IN = """
from pathlib import Path

class _Model:
    model_dir = str(Path(__file__).parent.parent.parent / "weights")

class _Pipeline:
    model = _Model()
    def __init__(self, task, model, device, model_revision=None):
        if model == "damo/missing":
            raise KeyError("no such\\nmodel")
        self.asked = (task, model, device, model_revision)
    def __call__(self, inputs):
        if inputs["question"] == "odd":
            return ["odd"]
        return {"text": f"{inputs['question']} {inputs['image'].size} {self.asked}"}

pipeline = _Pipeline
"""


@pytest.fixture
def modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Puts the stand-in where Python finds it; returns the folder of its weights."""
    package = tmp_path / "modelscope"
    for name, text in (
        ("__init__.py", "__version__ = '1'"),
        ("pipelines/__init__.py", STAND_IN),
        ("utils/__init__.py", ""),
        ("utils/constant.py", "class Tasks:\n    visual_question_answering = 'vqa'\n"),
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "pytorch_model.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)

    yield weights
    for name in [name for name in sys.modules if name.partition(".")[0] == "modelscope"]:
        del sys.modules[name]


@pytest.mark.skipif(importlib.util.find_spec("modelscope") is not None, reason="ModelScope is installed")
def test_without_modelscope_it_is_said_how_to_get_it_and_what_else_there_is():
    with pytest.raises(EvaluationError, match=r"ModelScope is not installed.*environment of its own.*judge `vqa`"):
        get_question_judge("mplug")


def test_pickled_weights_are_not_loaded_unless_they_are_trusted(modelscope: Path):
    with pytest.raises(EvaluationError, match=r"pickled.*trust_pickle = true"):
        get_question_judge("mplug")


def test_each_question_is_asked_as_the_official_script_asks_it(modelscope: Path):
    judge = get_question_judge("mplug", TRUST | {"revision": "v1"}, device="cpu")
    answers = judge.answer([(IMAGE, "a"), (IMAGE, "b")])
    model = "damo/mplug_visual-question-answering_coco_large_en"
    assert answers == [f"{question} (8, 8) ('vqa', '{model}', 'cpu', 'v1')" for question in "ab"]
    assert judge.name == "mplug"


def test_other_weights_are_another_judge(modelscope: Path):
    before = get_question_judge("mplug", TRUST).digest
    (modelscope / "pytorch_model.bin").write_bytes(b"others")
    assert get_question_judge("mplug", TRUST).digest != before


def test_what_modelscope_cannot_do_is_told_in_a_line(modelscope: Path):
    with pytest.raises(EvaluationError, match=r"cannot load damo/missing \(KeyError: 'no such") as error:
        get_question_judge("mplug", TRUST | {"model": "damo/missing"})
    assert "\n" not in str(error.value)
    judge = get_question_judge("mplug", TRUST)
    with pytest.raises(EvaluationError, match="expected a dict with `text`"):
        judge.answer([(IMAGE, "odd")])
    with pytest.raises(UnjudgeableImage, match="uint8 RGB"):
        judge.answer([(IMAGE[..., 0], "a")])


def test_an_unknown_option_is_told():
    with pytest.raises(ConfigError, match=r"dpg\.judge_options: unknown key `trust`"):
        get_question_judge("mplug", {"trust": True})
