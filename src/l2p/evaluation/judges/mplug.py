"""Owns the judge `mplug`: DPG-Bench's official VQA model, mPLUG-large, through the library ModelScope.

Only with this judge are scores comparable with published ones. Three things about it are worth knowing:

- ModelScope's VQA code does not run with transformers 5, which this project needs. Draw images here and judge them
  with `l2p evaluate` in an environment of its own (see `INSTALL`).
- The weights are pickled, and ModelScope loads them, with torch before 2.6 in a way that runs any code in them. Hence
  `trust_pickle`.
- The official preprocessing reads a question's first 25 tokens only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from l2p.errors import EvaluationError
from l2p.evaluation.judges.base import JudgeOptions, QuestionAnswerer, UnjudgeableImage
from l2p.files import sha256_file, sha256_json

INSTALL = (
    "Make an environment of its own (Python 3.11; `pip install 'pip<24.1'`, then `pip install --no-deps .` in a clone "
    "of this repository and `pip install 'modelscope[multi-modal]' 'transformers<5' pydantic`), and judge images there "
    "that were drawn here: `l2p evaluate` with ready images."
)
INSTEAD = "Or use judge `vqa`, which is installed; its scores are not comparable with published ones."

Pipeline = Callable[[dict[str, Any]], dict[str, Any]]


class MplugOptions(JudgeOptions):
    """Which mPLUG model, and leave to load it."""

    model: str = Field(
        default="damo/mplug_visual-question-answering_coco_large_en",
        min_length=1,
        description="ModelScope repository or folder; the default is the official script's.",
    )
    revision: str | None = Field(default=None, description="Tag, branch or commit of the repository.")
    trust_pickle: bool = Field(
        default=False,
        description="The weights are pickled (pytorch_model.bin), and ModelScope loads them itself: code hidden in "
        "them may run. True says that the repository is trusted.",
    )


class MplugJudge:
    """A question answerer; ModelScope takes one question at a time."""

    name = "mplug"

    def __init__(self, pipeline: Pipeline, digest: str) -> None:
        """`pipeline` is ModelScope's."""
        self._pipeline = pipeline
        self._digest = digest

    @property
    def digest(self) -> str:
        """SHA-256 of the model's files, ModelScope's version and this code."""
        return self._digest

    def answer(self, asked: Sequence[tuple[np.ndarray, str]]) -> list[str]:
        """One answer per (image, question), exactly as the model gives it, as the official script does.

        Raises:
            UnjudgeableImage: not uint8 RGB [H, W, 3].
            EvaluationError: ModelScope returned something else than a text.
        """
        answers = []
        for image, question in asked:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise UnjudgeableImage(f"expected uint8 RGB [H, W, 3], found {image.dtype} {list(image.shape)}.")
            result = self._pipeline({"image": Image.fromarray(image), "question": question})
            if not isinstance(result, dict) or not isinstance(result.get("text"), str):
                raise EvaluationError(f"judge `mplug`: ModelScope answered {result!r}; expected a dict with `text`.")
            answers.append(result["text"])
        return answers


def question_judge(options: MplugOptions, device: str) -> QuestionAnswerer:
    """Load mPLUG through ModelScope.

    Raises:
        EvaluationError: ModelScope is missing or does not work here, or the weights are not trusted.
    """
    if importlib.util.find_spec("modelscope") is None:
        raise EvaluationError(f"judge `mplug`: ModelScope is not installed. {INSTALL} {INSTEAD}")
    if not options.trust_pickle:
        raise EvaluationError(
            f"judge `mplug`: the weights of {options.model} are pickled, and loading a pickle can run any code that is "
            f"in it. If you trust that repository, set judge_options.trust_pickle = true. {INSTEAD}"
        )
    pipeline, version = _load_pipeline(options, device)
    return MplugJudge(pipeline, _digest(pipeline, version))


def _load_pipeline(options: MplugOptions, device: str) -> tuple[Any, str]:
    revision = {} if options.revision is None else {"model_revision": options.revision}
    try:
        import modelscope
        from modelscope.pipelines import pipeline
        from modelscope.utils.constant import Tasks

        made = pipeline(Tasks.visual_question_answering, model=options.model, device=device, **revision)
        return made, str(modelscope.__version__)
    except Exception as error:  # ModelScope has no error class of its own: whatever goes wrong comes as anything
        reason = " ".join(str(error).split())[-300:]
        raise EvaluationError(
            f"judge `mplug`: ModelScope cannot load {options.model} ({type(error).__name__}: {reason}). If "
            f"libraries are missing or too new: {INSTALL} {INSTEAD}"
        ) from error


def _digest(pipeline: Any, version: str) -> str:
    folder = Path(pipeline.model.model_dir)
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sha256_json([{path.name: sha256_file(path) for path in files}, version, sha256_file(Path(__file__))])
