"""Owns chat models that see images (image-text-to-text in transformers' terms), asked one question per conversation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, GenerationConfig

from l2p.evaluation.judges.vqa_answers import AnswerReader

QUESTION = "{question}"


class ChatAnswerer:
    """A model of AutoModelForImageTextToText with a chat template."""

    def __init__(self, model: Any, processor: Any, reader: AnswerReader, prompt: str) -> None:
        """The model is in eval mode on its device; `prompt` holds `QUESTION`. Both model and processor are changed."""
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # what is generated must follow the last word of each prompt
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        processor.image_processor = OncePerImage(processor.image_processor)
        own = model.generation_config
        # Checkpoints bring sampling temperatures and repetition penalties; only their token ids are wanted.
        model.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id,
            eos_token_id=own.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
        )
        self._model = model
        self._processor = processor
        self._reader = reader
        self._prompt = prompt

    def answer(self, images: Sequence[Image.Image], asked: Sequence[tuple[int, str]]) -> list[str]:
        """One answer per (number of the image, question)."""
        inputs = self._processor.apply_chat_template(
            [self._conversation(images[number], question) for number, question in asked],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        model = self._model
        placed = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }
        output = model.generate(**placed, **self._reader.arguments)
        prompt_length = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        return self._reader.read(output, prompt_length)

    def _conversation(self, image: Image.Image, question: str) -> list[dict[str, Any]]:
        text = self._prompt.replace(QUESTION, question)
        return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


class OncePerImage:
    """Stands before an image processor: an image that comes several times in a row is processed once.

    Processors want an image per prompt, and a dozen prompts about one image are usual. Images must be of one size.
    """

    def __init__(self, image_processor: Any) -> None:
        """Everything but the call itself is left to `image_processor`."""
        self._image_processor = image_processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image_processor, name)

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        """What `image_processor` returns for `images`: a list of images, or of lists of one image each."""
        runs = [list(run) for _, run in groupby(images, key=_identity)]
        parts = [(self._image_processor([run[0]], **options), len(run)) for run in runs]
        return BatchFeature({name: _join([(part[name], count) for part, count in parts]) for name in parts[0][0]})


def _identity(image: Any) -> int:
    return id(image[0] if isinstance(image, list) else image)


def _join(parts: Sequence[tuple[Any, int]]) -> Any:
    """All parts, each as often as its count says, along the first axis."""
    repeated = [part for part, count in parts for _ in range(count)]
    if isinstance(repeated[0], torch.Tensor):
        return torch.cat(repeated)
    if isinstance(repeated[0], np.ndarray):
        return np.concatenate(repeated)
    return [value for part in repeated for value in part]
