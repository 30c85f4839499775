"""Owns asking DPG-Bench's questions: batches of images go through the judge, answers are stored at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from l2p.config import EvaluationParams
from l2p.evaluation.benchmark_data import DpgItem
from l2p.evaluation.dpg import Tile
from l2p.evaluation.engine import run_batches
from l2p.evaluation.images import Grid, split_tiles
from l2p.evaluation.judgements import Failure, JudgementStore, judge_or_split, judgement_key, read_images
from l2p.evaluation.judges.base import QuestionAnswerer, UnjudgeableImage
from l2p.files import sha256_file


@dataclass(frozen=True)
class DpgImage:
    """Image `number` of an item: a file of its own, or (with `grid`) a tile of one."""

    path: Path
    filename: str
    item: DpgItem
    number: int
    grid: Grid | None

    @property
    def name(self) -> str:
        """What failures call it."""
        return self.filename if self.grid is None else f"{self.filename}#{self.number}"


class TileJudge:
    """Asks all questions about the images of a batch: a list of answers per image, or why there are none (str)."""

    def __init__(self, judge: QuestionAnswerer) -> None:
        """`judge` answers."""
        self._judge = judge

    def __call__(self, images: Sequence[DpgImage]) -> list[list[str] | str]:
        """Judge a batch; when it fails as a whole, image by image."""
        return judge_or_split(self._answers, images)

    def _answers(self, images: Sequence[DpgImage]) -> list[list[str] | str]:
        asked: list[tuple[np.ndarray, str]] = []
        for image, whole in zip(images, read_images([image.path for image in images]), strict=True):
            pixels = cut_tile(image, whole)
            asked += [(pixels, question.question) for question in image.item.questions]
        answers = iter(self._judge.answer(asked))
        return [[next(answers) for _ in image.item.questions] for image in images]


def answer_images(
    images: Sequence[DpgImage],
    judge: QuestionAnswerer,
    store: JudgementStore,
    machine: EvaluationParams,
    *,
    make_judge: Callable[[], QuestionAnswerer] | None = None,
) -> tuple[list[Tile], list[Failure]]:
    """Ask every question of every image that was not asked yet.

    Args:
        images: in the order of the results.
        judge: what answers; its digest names its answers.
        store: answers of earlier runs, and of this one as they come.
        machine: questions asked at once, engine and workers.
        make_judge: makes the judge on another machine; needed by the engine `ray`.

    Returns:
        One tile per image, and those that could not be judged.

    Raises:
        EvaluationError: the judge does not understand a question.
    """
    reasons = {image.name: f"{image.path}: not found" for image in images if not image.path.is_file()}
    digests = {path: sha256_file(path) for path in {image.path for image in images} if path.is_file()}
    keys = {image.name: _key(image, judge, digests[image.path]) for image in images if image.path in digests}
    waiting = [image for image in images if image.name in keys and keys[image.name] not in store]
    worker = functools.partial(_make_worker, make_judge or (lambda: judge))
    with tqdm(total=len(waiting), desc="DPG judge", unit="image", disable=None) as progress:
        for batch, found in run_batches(worker, _by_questions(waiting, machine.judge_batch_size), machine):
            for image, answers in zip(batch, found, strict=True):
                if isinstance(answers, str):
                    reasons[image.name] = answers
                else:
                    store.put(keys[image.name], answers)
            progress.update(len(batch))
    tiles = [_tile(image, reasons.get(image.name), store, keys) for image in images]
    return tiles, [Failure(image.name, reasons[image.name]) for image in images if image.name in reasons]


def cut_tile(image: DpgImage, pixels: np.ndarray) -> np.ndarray:
    """The image itself, uint8 RGB [H, W, 3], out of the `pixels` of its file.

    Raises:
        UnjudgeableImage: the file is not of the grid's size.
    """
    if image.grid is None:
        return pixels
    height, width = image.grid.size_px
    if pixels.shape[:2] != (height, width):
        raise UnjudgeableImage(
            f"{image.path}: {pixels.shape[1]}x{pixels.shape[0]} px; a grid of {image.grid.count} images of "
            f"{image.grid.width_px}x{image.grid.height_px} px has {width}x{height} px."
        )
    return split_tiles(pixels, image.grid)[image.number]


def _make_worker(make_judge: Callable[[], QuestionAnswerer]) -> TileJudge:
    return TileJudge(make_judge())


def _by_questions(images: Sequence[DpgImage], size: int) -> list[Sequence[DpgImage]]:
    """Batches of whole images with at most `size` questions, or of one image that has more."""
    batches: list[Sequence[DpgImage]] = []
    batch: list[DpgImage] = []
    for image in images:
        if batch and sum(len(each.item.questions) for each in [*batch, image]) > size:
            batches.append(batch)
            batch = []
        batch.append(image)
    return [*batches, batch] if batch else batches


def _key(image: DpgImage, judge: QuestionAnswerer, digest: str) -> str:
    return judgement_key(
        {
            "judge": judge.digest,
            "image": digest,
            "tile": None if image.grid is None else [image.number, *astuple(image.grid)],
            "questions": [question.question for question in image.item.questions],
        }
    )


def _tile(image: DpgImage, reason: str | None, store: JudgementStore, keys: dict[str, str]) -> Tile:
    questions = image.item.questions
    answers = None
    if reason is None:
        answers = {asked.number: said for asked, said in zip(questions, store[keys[image.name]], strict=True)}
    return Tile(image.item.item_id, image.number, image.filename, answers, reason)
