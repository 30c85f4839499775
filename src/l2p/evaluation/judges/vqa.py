"""Owns the judge `vqa`: any VQA model of transformers, asked DPG-Bench's questions in batches.

Its scores are not comparable with published ones, which are mPLUG's (judge `mplug`); compare scores of one judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from pydantic import Field, field_validator

from l2p.evaluation.judges.base import JudgeOptions, QuestionAnswerer, UnjudgeableImage
from l2p.evaluation.judges.pretrained import digest_folder, locate_weights
from l2p.evaluation.judges.vqa_answers import AnswerForm, AnswerReader
from l2p.evaluation.judges.vqa_chat import QUESTION, ChatAnswerer
from l2p.evaluation.judges.vqa_checkpoint import Checkpoint, load_checkpoint
from l2p.evaluation.judges.vqa_trained import BlipAnswerer, ViltAnswerer
from l2p.files import sha256_file, sha256_json


class VqaOptions(JudgeOptions):
    """Which VQA model, and how its answers are read."""

    model: str = Field(
        default="Salesforce/blip-vqa-capfilt-large",
        min_length=1,
        description="Folder or Hugging Face repository of a VQA model. The default is of the official judge's kind (a "
        "small generator of short answers, trained on VQA v2) and needs no torchvision; chat models, such as "
        "Qwen2.5-VL, are larger and know more.",
    )
    revision: str | None = Field(default=None, description="Commit of the repository.")
    answers: AnswerForm = Field(
        default="exact",
        description="`exact`: the generated text is the answer, and only a plain yes scores. `logits`: the first "
        'token\'s logit of "yes" against that of "no". `exact` is for models that do answer in one word; one that '
        "thinks aloud first fits neither.",
    )
    prompt: str = Field(
        default="{question} Answer with one word: yes or no.",
        description="Chat models only: what they are asked; {question} stands for the question.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="Precision of the model.")
    max_new_tokens: int = Field(
        default=10, ge=2, description='For `exact`: where an answer is cut; at 1, "yes, but" would count as yes.'
    )

    @field_validator("prompt")
    @classmethod
    def _asks_the_question(cls, prompt: str) -> str:
        if QUESTION not in prompt:
            raise ValueError(f"must contain {QUESTION}, or the model is never asked anything")
        return prompt


class Answerer(Protocol):
    """One kind of model."""

    def answer(self, images: Sequence[Image.Image], asked: Sequence[tuple[int, str]]) -> list[str]:
        """One answer per (number of the image, question); all images are of one size."""
        ...


class VqaJudge:
    """A question answerer. A call is one batch for each size of image in it."""

    def __init__(self, answerer: Answerer, *, name: str, digest: str) -> None:
        """`digest` covers whatever decides the answers."""
        self._answerer = answerer
        self._name = name
        self._digest = digest

    @property
    def name(self) -> str:
        """Judge, model and form of answers, for example "vqa:blip-vqa-base:exact"."""
        return self._name

    @property
    def digest(self) -> str:
        """SHA-256 of model files, options that change answers, and this code."""
        return self._digest

    @torch.inference_mode()
    def answer(self, asked: Sequence[tuple[np.ndarray, str]]) -> list[str]:
        """One answer per (image, question); an image that comes several times is prepared once.

        Raises:
            UnjudgeableImage: not uint8 RGB [H, W, 3].
            EvaluationError: a question is longer than the model can read.
        """
        answers: dict[int, str] = {}
        # Images of one size at a time: padding one to the size of another would make its answer depend on the batch.
        for shape in dict.fromkeys(image.shape for image, _ in asked):
            places = [place for place, (image, _) in enumerate(asked) if image.shape == shape]
            found = self._answer_of_one_size([asked[place] for place in places])
            answers.update(zip(places, found, strict=True))
        return [answers[place] for place in range(len(asked))]

    def _answer_of_one_size(self, asked: Sequence[tuple[np.ndarray, str]]) -> list[str]:
        distinct = {id(image): image for image, _ in asked}
        numbers = {key: number for number, key in enumerate(distinct)}
        images = [_to_pil(image) for image in distinct.values()]
        return self._answerer.answer(images, [(numbers[id(image)], question) for image, question in asked])


def question_judge(options: VqaOptions, device: str) -> QuestionAnswerer:
    """Load the model of `options`.

    Raises:
        EvaluationError: the model is not there, not a VQA model, or a library is missing.
    """
    path = locate_weights(options.model, options.revision)
    checkpoint = load_checkpoint(path, dtype=options.dtype, device=device)
    image_processor = type(checkpoint.processor.image_processor).__name__
    deciding = options.model_dump(exclude={"model", "revision"})
    return VqaJudge(
        _make_answerer(checkpoint, options),
        name=f"vqa:{Path(options.model).name}:{options.answers}",
        digest=sha256_json([digest_folder(path), image_processor, deciding, _code_digest()]),
    )


def _make_answerer(checkpoint: Checkpoint, options: VqaOptions) -> Answerer:
    model, processor = checkpoint.model, checkpoint.processor
    if checkpoint.kind == "vilt":
        return ViltAnswerer(model, processor, options.answers)
    reader = AnswerReader(processor.tokenizer, options.answers, options.max_new_tokens)
    if checkpoint.kind == "blip":
        return BlipAnswerer(model, processor, reader)
    return ChatAnswerer(model, processor, reader, options.prompt)


def _code_digest() -> str:
    return sha256_json([sha256_file(path) for path in sorted(Path(__file__).parent.glob("vqa*.py"))])


def _to_pil(image: Any) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UnjudgeableImage(f"expected uint8 RGB [H, W, 3], found {image.dtype} {list(image.shape)}.")
    return Image.fromarray(image)
