"""Owns how a model's output becomes an answer: the text that it generates, or "yes" against "no" by its first token."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from l2p.errors import EvaluationError

AnswerForm = Literal["exact", "logits"]
YES, NO = "yes", "no"
_WORD_START_MARKS = "▁Ġ "  # what sentencepiece and byte-level tokenizers write for the space before a word


def tidy(text: str) -> str:
    """Lower case, without space around it and without a final full stop: " Yes." becomes "yes"."""
    return text.strip().lower().removesuffix(".").rstrip()


def one_token_spellings(tokenizer: Any, word: str) -> list[int]:
    """Ids of all tokens that spell `word` (lower case) whole: "yes", "Yes", " yes" and so on.

    Raises:
        EvaluationError: there is none.
    """
    vocabulary = tokenizer.get_vocab().items()
    ids = sorted(number for token, number in vocabulary if token.lstrip(_WORD_START_MARKS).lower() == word)
    if not ids:
        raise EvaluationError(
            f"dpg.judge_options.answers = 'logits': the model's tokenizer has no single token for {word!r}, so its "
            f"first token does not tell. Use answers = 'exact'."
        )
    return ids


def louder(logits: Tensor, yes: list[int], no: list[int]) -> list[str]:
    """Per row of float [B, V]: "yes" if the largest logit at indices `yes` exceeds the largest at `no`, else "no"."""
    return [YES if wins else NO for wins in logits[:, yes].amax(dim=1) > logits[:, no].amax(dim=1)]


class AnswerReader:
    """What to ask of a model's `generate`, and how to read what it returns. Decoding is greedy: no chance in it."""

    def __init__(self, tokenizer: Any, form: AnswerForm, max_new_tokens: int) -> None:
        """The tokenizer is the model's own."""
        self._tokenizer = tokenizer
        self._form = form
        self._max_new_tokens = max_new_tokens
        self._spellings: tuple[list[int], list[int]] = ([], [])
        if form == "logits":
            self._spellings = one_token_spellings(tokenizer, YES), one_token_spellings(tokenizer, NO)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `generate`."""
        chosen = {"do_sample": False, "num_beams": 1, "return_dict_in_generate": True}
        if self._form == "logits":
            return {**chosen, "max_new_tokens": 1, "output_logits": True}
        return {**chosen, "max_new_tokens": self._max_new_tokens}

    def read(self, output: Any, prompt_length: int) -> list[str]:
        """One answer per row of what `generate` returned; the first `prompt_length` tokens of a row are the prompt."""
        if self._form == "logits":
            return louder(output.logits[0], *self._spellings)
        texts = self._tokenizer.batch_decode(output.sequences[:, prompt_length:], skip_special_tokens=True)
        return [tidy(text) for text in texts]


def tokenize_questions(tokenizer: Any, questions: list[str], max_tokens: int) -> list[list[int]]:
    """Token ids of whole questions, each as long as it is.

    Raises:
        EvaluationError: a question is longer than the model can read; cutting it would ask something else.
    """
    rows: list[list[int]] = tokenizer(questions)["input_ids"]
    for question, row in zip(questions, rows, strict=True):
        if len(row) > max_tokens:
            raise EvaluationError(
                f"question {question!r} has {len(row)} tokens, but the VQA model reads at most {max_tokens}. Choose "
                f"another model in dpg.judge_options.model; images that are drawn are kept."
            )
    return rows
