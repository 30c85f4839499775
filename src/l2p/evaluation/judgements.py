"""Owns what a judge said: a resumable store of its answers, going through a batch, and counting what went wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from l2p.errors import EvaluationError
from l2p.evaluation.judges.base import UnjudgeableImage
from l2p.files import sha256_json

_NAMED_FAILURES = 3
_WORTH_THREADS_BYTES = 1 << 16  # an image: a smaller one is decoded before a thread has begun
_MAX_READERS = 8  # Pillow decodes without holding Python's lock
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


# What may go wrong with one image while the run goes on; a fault of benchmark or judge (EvaluationError) stops it.
ImageFault = (UnjudgeableImage, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Failure:
    """One image that could not be drawn or judged, with the reason."""

    image: str
    reason: str


def judgement_key(asked: dict[str, Any]) -> str:
    """Name of an answer: of judge digest, image digest and question, whatever it takes to give the same answer."""
    return sha256_json(asked)


def judge_or_split(judge: Callable[[Sequence[_Item]], list[_Answer]], items: Sequence[_Item]) -> list[_Answer | str]:
    """Answers of a batch; when it cannot be judged, of each item alone, with the reason (str) where that fails too."""
    try:
        return list(judge(items))
    except ImageFault as error:
        if isinstance(error, EvaluationError) and not isinstance(error, UnjudgeableImage):
            raise
        if len(items) == 1:
            return [describe_failure(error)]
        return [judge_or_split(judge, [item])[0] for item in items]


class JudgementStore:
    """Answers by what was asked of which image by which judge; appended one JSON line at a time, so a run can go on."""

    def __init__(self, path: Path) -> None:
        """Open or create `path`. A last line that a killed run left unfinished is dropped."""
        self._path = path
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            self._read()

    def __contains__(self, key: str) -> bool:
        """Whether there is an answer; `key` is `judgement_key` of what was asked."""
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        """The answer."""
        return self._known[key]

    def put(self, key: str, answer: Any) -> None:
        """Store an answer at once."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"key": key, "answer": answer}) + "\n")
        self._known[key] = answer

    def _read(self) -> None:
        text = self._path.read_text(encoding="utf-8")
        whole, _, unfinished = text.rpartition("\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self._known[row["key"]] = row["answer"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise EvaluationError(
                    f"{self._path}, line {number}: not a stored judgement. Delete the file."
                ) from error
        if unfinished:
            self._path.write_text(whole + "\n" if whole else "", encoding="utf-8")


def read_image(path: Path) -> np.ndarray:
    """uint8 RGB [H, W, 3].

    Raises:
        UnjudgeableImage: missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise UnjudgeableImage(f"{path}: not readable as an image ({' '.join(str(error).split())}).") from error


def read_images(paths: Sequence[Path]) -> list[np.ndarray]:
    """`read_image` of each, decoded side by side; a path that comes twice is read once and is one array.

    Raises:
        UnjudgeableImage: one of them is missing or damaged.
    """
    unique = list(dict.fromkeys(paths))
    if sum(path.stat().st_size for path in unique if path.is_file()) < _WORTH_THREADS_BYTES * len(unique):
        images = {path: read_image(path) for path in unique}
        return [images[path] for path in paths]
    with ThreadPoolExecutor(max_workers=min(_MAX_READERS, os.cpu_count() or 1)) as readers:
        images = dict(zip(unique, readers.map(read_image, unique), strict=True))
    return [images[path] for path in paths]


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image in pixels.

    Raises:
        UnjudgeableImage: missing or damaged.
    """
    height, width = read_image(path).shape[:2]
    return height, width


def describe_failure(error: Exception) -> str:
    """One line; the kind of error is named unless the error is our own."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UnjudgeableImage) else f"{type(error).__name__}: {text}"


def check_failures(failures: list[Failure], *, images: int, max_share: float, results: Path) -> None:
    """Refuse a score when too much of it is missing.

    Raises:
        EvaluationError: more than `max_share` of `images` failed.
    """
    if len(failures) <= max_share * images:
        return
    named = "; ".join(f"{failure.image}: {failure.reason}" for failure in failures[:_NAMED_FAILURES])
    raise EvaluationError(
        f"{results}: {len(failures)} of {images} images could not be judged, more than max_failed_share = {max_share}. "
        f"First: {named}. Repair or delete these images and run the stage again."
    )
