"""Owns judging GenEval's images: batches of them go through the judge, every verdict is stored at once."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from l2p.config import EvaluationParams
from l2p.evaluation import geneval
from l2p.evaluation.benchmark_data import Clause, GenEvalPrompt
from l2p.evaluation.engine import run_batches, split
from l2p.evaluation.geneval import Decision, Groups, Row, decide, keep_detections
from l2p.evaluation.judgements import Failure, JudgementStore, judge_or_split, judgement_key, read_images
from l2p.evaluation.judges.base import Detection, ObjectJudge
from l2p.files import sha256_file


@dataclass(frozen=True)
class GenEvalImage:
    """An image of a prompt; `filename` is what the results call it."""

    path: Path
    filename: str
    prompt: GenEvalPrompt


class ImageJudge:
    """Judges batches: one verdict (correct, reason, details) per image, or why there is none (str)."""

    def __init__(self, judge: ObjectJudge) -> None:
        """`judge` finds objects and names colours."""
        self._judge = judge

    def __call__(self, images: Sequence[GenEvalImage]) -> list[Row | str]:
        """Judge a batch; when it fails as a whole, image by image."""
        return judge_or_split(self._verdicts, images)

    def _verdicts(self, images: Sequence[GenEvalImage]) -> list[Row | str]:
        pixels = read_images([image.path for image in images])
        found = self._judge.detector.detect(pixels)
        groups = [keep_detections(of, image.prompt.tag) for of, image in zip(found, images, strict=True)]
        colors = self._colors(images, pixels, groups)
        return [
            _verdict(decide(image.prompt, kept, lambda objects: [colors[id(each)] for each in objects]), kept)
            for image, kept in zip(images, groups, strict=True)
        ]

    def _colors(
        self, images: Sequence[GenEvalImage], pixels: Sequence[np.ndarray], groups: Sequence[Groups]
    ) -> dict[int, str]:
        """Colours of all objects that a decision asks for, by the id of the detection, in one call for the batch."""
        asked: dict[int, tuple[np.ndarray, Detection]] = {}
        for image, picture, kept in zip(images, pixels, groups, strict=True):
            for clause in image.prompt.include:
                asked |= {id(each): (picture, each) for each in _to_classify(clause, kept)}
        named = self._judge.color_classifier.classify(list(asked.values())) if asked else []
        return dict(zip(asked, named, strict=True))


def judge_images(
    images: Sequence[GenEvalImage],
    judge: ObjectJudge,
    store: JudgementStore,
    machine: EvaluationParams,
    *,
    make_judge: Callable[[], ObjectJudge] | None = None,
) -> tuple[list[Row], list[Failure]]:
    """Judge every image that is not judged yet.

    Args:
        images: in the order of the results.
        judge: what looks at them; its digest names its answers.
        store: answers of earlier runs, and of this one as they come.
        machine: batch size, engine and workers.
        make_judge: makes the judge on another machine; needed by the engine `ray`.

    Returns:
        One row of the official columns per image, and the images that could not be judged (their rows are incorrect).
    """
    reasons: dict[str, str] = {}
    keys: dict[str, str] = {}
    for image in images:
        if image.path.is_file():
            keys[image.filename] = _key(image, judge)
        else:
            reasons[image.filename] = f"{image.path}: not found"
    waiting = [image for image in images if image.filename in keys and keys[image.filename] not in store]
    worker = functools.partial(_make_worker, make_judge or (lambda: judge))
    with tqdm(total=len(waiting), desc="GenEval judge", unit="image", disable=None) as progress:
        for batch, verdicts in run_batches(worker, split(waiting, machine.judge_batch_size), machine):
            for image, verdict in zip(batch, verdicts, strict=True):
                if isinstance(verdict, str):
                    reasons[image.filename] = verdict
                else:
                    store.put(keys[image.filename], verdict)
            progress.update(len(batch))
    rows = [_row(image, reasons.get(image.filename), store, keys) for image in images]
    return rows, [Failure(image.filename, reasons[image.filename]) for image in images if image.filename in reasons]


def _make_worker(make_judge: Callable[[], ObjectJudge]) -> ImageJudge:
    return ImageJudge(make_judge())


def _to_classify(clause: Clause, kept: Groups) -> Sequence[Detection]:
    """The objects whose colour `decide` asks for."""
    found = kept.get(clause.label, [])[: clause.count]
    return found if clause.color is not None and len(found) == clause.count else []


def _verdict(decision: Decision, kept: Groups) -> Row:
    boxes = {label: [[*map(float, d.box), float(d.score)] for d in group] for label, group in kept.items()}
    return {"correct": decision.correct, "reason": decision.reason, "details": json.dumps(boxes)}


def _key(image: GenEvalImage, judge: ObjectJudge) -> str:
    return judgement_key(
        {
            "judge": judge.digest,
            "scoring": _own_digest(),
            "image": sha256_file(image.path),
            "metadata": image.prompt.metadata,
        }
    )


@cache
def _own_digest() -> str:
    """Decisions are stored; those of other code are not reused."""
    return sha256_file(Path(geneval.__file__))


def _row(image: GenEvalImage, reason: str | None, store: JudgementStore, keys: dict[str, str]) -> Row:
    if reason is not None:
        verdict: dict[str, Any] = {"correct": False, "reason": f"could not be judged: {reason}", "details": "{}"}
    else:
        verdict = store[keys[image.filename]]
    return {
        "filename": image.filename,
        "tag": image.prompt.tag,
        "prompt": image.prompt.prompt,
        "correct": verdict["correct"],
        "reason": verdict["reason"],
        "metadata": json.dumps(image.prompt.metadata),
        "details": verdict["details"],
    }
