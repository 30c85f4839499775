"""Owns what is asked of a language model and what comes back: requests, answers, their cache, and the limit on both.

A request is known by the SHA-256 of what is asked; its answer is kept on disk, so that nothing is paid for twice.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from l2p.errors import DataError
from l2p.files import atomic_path, sha256_json

CHARS_PER_TOKEN = 4  # of English text, roughly: for estimates


@dataclass(frozen=True)
class Request:
    """One question: `body` is the chat-completions request, without the address."""

    body: dict[str, Any]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the body."""
        return sha256_json(self.body)

    @property
    def num_chars(self) -> int:
        """Characters of all messages."""
        return sum(len(message["content"]) for message in self.body["messages"])


@dataclass(frozen=True)
class Answer:
    """What a model wrote; `cut_off`: it reached `max_tokens`. Tokens are None where the model does not count."""

    text: str
    cut_off: bool = False
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


class Chat(Protocol):
    """A language model that answers requests in their order, each from the cache where it is there."""

    def answers(self, requests: list[Request]) -> Iterator[Answer]:
        """One answer a request."""
        ...


class LimitReached(DataError):
    """`prompts.llm.max_requests` are used up."""


class Budget:
    """Counts requests, those answered from the cache too, so that a killed and repeated run has the same limit."""

    def __init__(self, max_requests: int) -> None:
        self.spent = 0
        self._limit = max_requests
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """How many more are allowed."""
        return self._limit - self.spent

    def spend(self) -> None:
        """Count one.

        Raises:
            LimitReached: it would be one too many.
        """
        with self._lock:
            if self.spent >= self._limit:
                raise LimitReached(f"prompts.llm.max_requests = {self._limit} are used up, retries counted.")
            self.spent += 1


class AnswerCache:
    """Answers on disk, a JSON file each, with the request for the reader."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, request: Request) -> Answer | None:
        """The kept answer; a damaged file counts as none."""
        path = self._path(request)
        try:
            return Answer(**json.loads(path.read_text(encoding="utf-8"))["answer"]) if path.is_file() else None
        except (ValueError, KeyError, TypeError):
            return None

    def put(self, request: Request, answer: Answer) -> None:
        """Keep an answer, atomically."""
        with atomic_path(self._path(request)) as partial:
            kept = {"request": request.body, "answer": asdict(answer)}
            partial.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    def _path(self, request: Request) -> Path:
        return self._folder / request.digest[:2] / f"{request.digest}.json"
