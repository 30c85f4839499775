"""Owns what a judge said: a resumable store of its answers, and counting the images that it could not judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from l2p.errors import EvaluationError
from l2p.evaluation.judges.base import UnjudgeableImage
from l2p.files import sha256_json

_NAMED_FAILURES = 3


@dataclass(frozen=True)
class Failure:
    """One image that could not be judged, with the reason."""

    image: str
    reason: str


class JudgementStore:
    """Answers by what was asked of which image by which judge; appended one JSON line at a time, so a run can go on."""

    def __init__(self, path: Path) -> None:
        """Open or create `path`. A last line that a killed run left unfinished is dropped."""
        self._path = path
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            self._read()

    def remember(self, asked: dict[str, Any], judge: Callable[[], Any]) -> Any:
        """The stored answer to `asked` (judge digest, image digest, question), or `judge()`, which is then stored."""
        key = sha256_json(asked)
        if key not in self._known:
            answer = judge()
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"key": key, "answer": answer}) + "\n")
            self._known[key] = answer
        return self._known[key]

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


@contextmanager
def count_failures(image: str, failures: list[Failure]) -> Iterator[None]:
    """Turn what goes wrong with one image into a `Failure`; a benchmark or question fault still stops the run."""
    try:
        yield
    except UnjudgeableImage as error:
        failures.append(Failure(image, str(error)))
    except EvaluationError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        failures.append(Failure(image, f"{type(error).__name__}: {' '.join(str(error).split())}"))


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
