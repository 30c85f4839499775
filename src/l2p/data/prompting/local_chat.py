"""Owns a transformers chat model run here: batches, and the same answers again for the same batches.

A batch is drawn from a seed of its own requests, so an interrupted run goes on with the batch in which it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from l2p.config import LlmParams
from l2p.data.prompting.chat import Answer, AnswerCache, Budget, Request
from l2p.errors import DataError, MissingFileError
from l2p.files import sha256_file, sha256_json

_CONFIG = "config.json"


def identity(folder: Path) -> str:
    """What the cache knows the model by: digest of its configuration and of the sizes of its files.

    Raises:
        MissingFileError: there is no model in `folder`.
    """
    if not (folder / _CONFIG).is_file():
        raise MissingFileError(
            f"prompts.llm.model = {str(folder)!r}: no {_CONFIG} there. For `kind: local` it must be the folder of a "
            "transformers chat model."
        )
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    return f"local:{sha256_json([sha256_file(folder / _CONFIG), sizes])[:16]}"


class LocalChat:
    """A chat model in memory, on the GPU where there is one; loaded when the first answer is not in the cache."""

    def __init__(self, params: LlmParams, cache: AnswerCache, budget: Budget) -> None:
        self._params, self._cache, self._budget = params, cache, budget
        self._loaded: tuple[Any, Any] | None = None

    def answers(self, requests: list[Request]) -> Iterator[Answer]:
        """One answer a request, in order.

        Raises:
            DataError: the folder holds no chat model that transformers can load.
            LimitReached: `max_requests` are used up.
        """
        size = self._params.concurrency
        batches = [requests[start : start + size] for start in range(0, len(requests), size)]
        for batch in tqdm(batches, desc="language model", unit="batch", disable=None):
            for _ in batch:
                self._budget.spend()
            known = [answer for request in batch if (answer := self._cache.get(request)) is not None]
            if len(known) < len(batch):
                known = self._generate(batch)
                for request, answer in zip(batch, known, strict=True):
                    self._cache.put(request, answer)
            yield from known

    def _generate(self, batch: list[Request]) -> list[Answer]:
        import torch

        model, tokenizer = self._load()
        chats = [request.body["messages"] for request in batch]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        digest = hashlib.sha256("".join(request.digest for request in batch).encode()).digest()
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(int.from_bytes(digest[:6], "big"))
            written = model.generate(**inputs, **self._sampling(tokenizer))
        num_asked = inputs["input_ids"].shape[1]
        return [_answer(row, tokenizer, self._params.max_tokens) for row in written[:, num_asked:]]

    def _sampling(self, tokenizer: Any) -> dict[str, Any]:
        warm = self._params.temperature > 0
        chosen = {"do_sample": True, "temperature": self._params.temperature} if warm else {"do_sample": False}
        return chosen | {"max_new_tokens": self._params.max_tokens, "pad_token_id": tokenizer.pad_token_id}

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = _load_chat_model(Path(str(self._params.model)))
        return self._loaded


def _load_chat_model(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, padding_side="left", local_files_only=True, trust_remote_code=False
        )
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"prompts.llm.model = {str(folder)!r}: transformers cannot load it ({' '.join(str(error).split())[:200]}). "
            "It must be the folder of a causal language model with its tokenizer."
        ) from error
    if tokenizer.chat_template is None:
        raise DataError(f"prompts.llm.model = {str(folder)!r}: its tokenizer has no chat template. Take a chat model.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def _answer(tokens: Any, tokenizer: Any, max_tokens: int) -> Answer:
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    ended = any(int(token) in ends for token in tokens)
    return Answer(tokenizer.decode(tokens, skip_special_tokens=True), cut_off=not ended and len(tokens) >= max_tokens)
