"""Owns models trained to answer questions about images in a word or two: BLIP generates the answer, ViLT chooses it.

Both get the bare question. U images of one size, Q questions, L tokens of a question, N patches, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from l2p.errors import EvaluationError
from l2p.evaluation.judges.vqa_answers import NO, YES, AnswerForm, AnswerReader, louder, tidy, tokenize_questions


class BlipAnswerer:
    """BlipForQuestionAnswering: each image is encoded once, each question then attends to its image."""

    def __init__(self, model: Any, processor: Any, reader: AnswerReader) -> None:
        """The model is in eval mode on its device."""
        self._model = model
        self._processor = processor
        self._reader = reader

    def answer(self, images: Sequence[Image.Image], asked: Sequence[tuple[int, str]]) -> list[str]:
        """One answer per (number of the image, question).

        `model.generate` is not used: it encodes the image once per question. Questions of one length go together, since
        the decoder attends to padding whatever mask it is given (transformers 5.23 drops the mask on the way to the
        cross-attention), so that an answer would depend on the longest question of the batch.
        """
        rows = tokenize_questions(
            self._processor.tokenizer,
            [question for _, question in asked],
            self._model.config.text_config.max_position_embeddings,
        )
        seen_UND = self._look(images)
        answers = [""] * len(asked)
        for length in sorted({len(row) for row in rows}):
            places = [place for place, row in enumerate(rows) if len(row) == length]
            seen_QND = seen_UND[[asked[place][0] for place in places]]
            found = self._answer_of_one_length([rows[place] for place in places], seen_QND)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def _answer_of_one_length(self, rows: list[list[int]], seen_QND: Tensor) -> list[str]:
        model, text_config = self._model, self._model.config.text_config
        hidden_QLD = model.text_encoder(
            input_ids=torch.tensor(rows, device=model.device), encoder_hidden_states=seen_QND
        ).last_hidden_state
        output = model.text_decoder.generate(
            input_ids=torch.full((len(rows), 1), model.decoder_start_token_id, device=model.device),
            eos_token_id=text_config.sep_token_id,
            pad_token_id=text_config.pad_token_id,
            encoder_hidden_states=hidden_QLD,
            **self._reader.arguments,
        )
        return self._reader.read(output, prompt_length=1)

    def _look(self, images: Sequence[Image.Image]) -> Tensor:
        """Image features [U, N, D], float."""
        pixels = self._processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        return self._model.vision_model(pixel_values=pixels.to(self._model.device, self._model.dtype)).last_hidden_state


class ViltAnswerer:
    """ViltForQuestionAnswering: one class per answer."""

    def __init__(self, model: Any, processor: Any, form: AnswerForm) -> None:
        """The model is in eval mode on its device.

        Raises:
            EvaluationError: "yes" or "no" is not among its answers.
        """
        self._model = model
        self._processor = processor
        self._form = form
        # Else a model that was trained on a sample of the patches would look at a random sample of them here too.
        model.config.max_image_length = -1
        self._labels = [tidy(model.config.id2label[number]) for number in range(model.config.num_labels)]
        for word in (YES, NO):
            if word not in self._labels:
                raise EvaluationError(
                    f"the VQA model's answers (`id2label` in config.json) do not include {word!r}; it has "
                    f"{len(self._labels)}, first {', '.join(self._labels[:5])}. Choose a model trained on VQA v2."
                )

    def answer(self, images: Sequence[Image.Image], asked: Sequence[tuple[int, str]]) -> list[str]:
        """One answer per (number of the image, question)."""
        model = self._model
        tokenizer = self._processor.tokenizer
        rows = tokenize_questions(tokenizer, [question for _, question in asked], model.config.max_position_embeddings)
        questions = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        numbers = [number for number, _ in asked]
        seen = self._processor.image_processor(list(images), return_tensors="pt")
        # The model shuffles patches; the order is of no consequence but for rounding, and must not disturb other draws.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            logits_QV = model(
                pixel_values=seen["pixel_values"][numbers].to(model.device, model.dtype),
                pixel_mask=seen["pixel_mask"][numbers].to(model.device),
                **{name: value.to(model.device) for name, value in questions.items()},
            ).logits
        if self._form == "logits":
            return louder(logits_QV, [self._labels.index(YES)], [self._labels.index(NO)])
        return [self._labels[number] for number in logits_QV.argmax(dim=1).tolist()]
