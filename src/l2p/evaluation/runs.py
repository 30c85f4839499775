"""Owns an evaluation from beginning to end: draw what is missing, judge, score; the same for stages and for any model.

A run has a folder for what others read (images in the official layout, results, scores) and a place for the judge's
answers. Both may be there from an earlier run: what fits is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from l2p.config import BenchmarkParams, DpgParams, EvaluationParams
from l2p.evaluation import dpg, geneval
from l2p.evaluation.benchmark_data import DpgData, GenEvalData
from l2p.evaluation.dpg_judging import DpgImage, answer_images
from l2p.evaluation.drawing import DrawingPlan, Drawn, draw_missing
from l2p.evaluation.geneval_judging import GenEvalImage, judge_images
from l2p.evaluation.image_folders import digest_images
from l2p.evaluation.images import (
    SEED_FORMULA,
    Grid,
    ImageFile,
    dpg_files,
    geneval_files,
    geneval_image,
    remove_leftovers,
)
from l2p.evaluation.judgements import Failure, JudgementStore, check_failures, read_size
from l2p.evaluation.judges import get_object_judge, get_question_judge
from l2p.evaluation.judges.base import ObjectJudge, QuestionAnswerer
from l2p.evaluation.scores import ScoreCard
from l2p.evaluation.subject import Subject, default_device
from l2p.evaluation.subset import dpg_subset, geneval_subset

NOTHING_DRAWN = Drawn(0, ())


@dataclass(frozen=True)
class Run:
    """Where an evaluation is kept, how it is computed, and how many images are drawn at once."""

    folder: Path
    store: Path
    machine: EvaluationParams
    batch_size: int


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found: scores.json, the number of images, and how many of them were drawn now."""

    scores: dict[str, Any]
    n_images: int
    drawn: int

    @property
    def told(self) -> str:
        """One line."""
        card, digits = self.scores["card"], 3 if self.scores["card"]["benchmark"] == "geneval" else 1
        low, high = self.scores["interval"]
        sample = f", a sample of {card['subset']:.0%} of the prompts" if card["subset"] < 1 else ""
        return (
            f"{self.scores['overall']:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f}), {self.n_images} images, "
            f"{self.drawn} of them drawn now, {card['n_failures']} failed{sample}"
        )


def run_geneval(subject: Subject, data: GenEvalData, settings: BenchmarkParams, run: Run) -> Outcome:
    """Draw the prompts with a model and score it.

    Raises:
        EvaluationError: the judge does not know a word of the benchmark, or too many images failed.
    """
    judge = get_object_judge(settings.judge, settings.judge_options, device=default_device())
    geneval.check_vocabulary(data, judge)
    _forget_scores(run)
    part, count = geneval_subset(data, settings.subset), settings.images_per_prompt
    place = functools.partial(
        geneval_files, run.folder / geneval.IMAGES, images_per_prompt=count, first_seed=settings.seed
    )
    drawn = _draw(subject, place(_by_index(part)), place(_by_index(data)), settings, run)
    images = [
        GenEvalImage(run.folder / name, name, prompt)
        for prompt in part.prompts
        for name in ((Path(geneval.IMAGES) / geneval_image(prompt.index, number)).as_posix() for number in range(count))
    ]
    geneval.write_metadata(part, run.folder)
    card = _card_of_subject(subject, part, settings, judge)
    return _score_geneval(images, judge, card, drawn, settings, run)


def run_dpg(subject: Subject, data: DpgData, settings: DpgParams, run: Run) -> Outcome:
    """Draw the items with a model and score it.

    Raises:
        EvaluationError: the judge does not understand the benchmark, or too many images failed.
    """
    judge = get_question_judge(settings.judge, settings.judge_options, device=default_device())
    dpg.try_judge(data, judge)
    _forget_scores(run)
    part = dpg_subset(data, settings.subset)
    place = functools.partial(
        dpg_files, run.folder / dpg.IMAGES, images_per_prompt=settings.images_per_prompt, first_seed=settings.seed
    )
    drawn = _draw(subject, place(part.items), place(data.items), settings, run)
    grid = Grid(settings.images_per_prompt, *subject.size_px)
    images = [
        DpgImage(run.folder / name, name, item, number, grid)
        for item in part.items
        for name in [f"{dpg.IMAGES}/{item.item_id}.png"]
        for number in range(grid.count)
    ]
    return _score_dpg(images, part, judge, _card_of_subject(subject, part, settings, judge), drawn, settings, run)


def score_geneval_images(
    images: Sequence[GenEvalImage], data: GenEvalData, settings: BenchmarkParams, run: Run, *, name: str
) -> Outcome:
    """Score ready images of a model that is called `name`.

    Raises:
        EvaluationError: as `run_geneval`.
    """
    judge = get_object_judge(settings.judge, settings.judge_options, device=default_device())
    geneval.check_vocabulary(data, judge)
    _forget_scores(run)
    card = _card_of_images([image.path for image in images], data, settings, judge, name)
    return _score_geneval(images, judge, card, NOTHING_DRAWN, settings, run)


def score_dpg_images(images: Sequence[DpgImage], data: DpgData, settings: DpgParams, run: Run, *, name: str) -> Outcome:
    """Score ready images of a model that is called `name`.

    Raises:
        EvaluationError: as `run_dpg`.
    """
    judge = get_question_judge(settings.judge, settings.judge_options, device=default_device())
    dpg.try_judge(data, judge)
    _forget_scores(run)
    card = _card_of_images([image.path for image in images], data, settings, judge, name)
    if images[0].grid is not None:
        card = replace(card, height_px=images[0].grid.height_px, width_px=images[0].grid.width_px)
    return _score_dpg(images, data, judge, card, NOTHING_DRAWN, settings, run)


def _forget_scores(run: Run) -> None:
    """A run that is killed must not leave the scores of another one behind."""
    (run.folder / geneval.SCORES).unlink(missing_ok=True)


def _by_index(data: GenEvalData) -> dict[int, str]:
    return {prompt.index: prompt.prompt for prompt in data.prompts}


def _draw(
    subject: Subject, files: Sequence[ImageFile], whole: Sequence[ImageFile], settings: BenchmarkParams, run: Run
) -> Drawn:
    """Draw `files`; of the `whole` benchmark, images of prompts outside the subset may stay."""
    plan = DrawingPlan(subject.drawing_card(), run.batch_size, run.machine, settings.max_failed_share)
    drawn = draw_missing(files, subject.make_painter, plan, f"drawing, {subject.name}")
    remove_leftovers(run.folder / geneval.IMAGES, whole)
    return drawn


def _score_geneval(
    images: Sequence[GenEvalImage],
    judge: ObjectJudge,
    card: ScoreCard,
    drawn: Drawn,
    settings: BenchmarkParams,
    run: Run,
) -> Outcome:
    make = functools.partial(get_object_judge, settings.judge, settings.judge_options, device=default_device())
    store = JudgementStore(run.store)
    rows, failures = judge_images(images, judge, store, run.machine, make_judge=make)
    results = geneval.write_results(rows, run.folder)
    failures = _explained(failures, drawn, run.folder)
    check_failures(failures, images=len(rows), max_share=settings.max_failed_share, results=results)
    scores = geneval.write_scores(rows, run.folder, replace(card, n_images=len(rows), failures=failures))
    return Outcome(scores, len(rows), drawn.count)


def _score_dpg(
    images: Sequence[DpgImage],
    data: DpgData,
    judge: QuestionAnswerer,
    card: ScoreCard,
    drawn: Drawn,
    settings: DpgParams,
    run: Run,
) -> Outcome:
    make = functools.partial(get_question_judge, settings.judge, settings.judge_options, device=default_device())
    store = JudgementStore(run.store)
    tiles, failures = answer_images(images, judge, store, run.machine, make_judge=make)
    result = dpg.score_answers(data, tiles, settings.protocol)
    answers = dpg.write_answers(result, run.folder)
    failures = _explained(failures, drawn, run.folder)
    check_failures(failures, images=len(tiles), max_share=settings.max_failed_share, results=answers)
    card = replace(card, protocol=settings.protocol, n_images=len(tiles), failures=failures, dropped=result.dropped)
    return Outcome(dpg.write_scores(result, run.folder, card), len(tiles), drawn.count)


def _explained(failures: Sequence[Failure], drawn: Drawn, folder: Path) -> list[Failure]:
    """An image that was not drawn is missing for the judge; the reason is why it was not drawn."""
    reasons = {Path(failure.image).relative_to(folder).as_posix(): failure.reason for failure in drawn.failures}
    return [replace(failure, reason=reasons.get(failure.image.split("#")[0], failure.reason)) for failure in failures]


def _card_of_subject(
    subject: Subject, data: GenEvalData | DpgData, settings: BenchmarkParams, judge: ObjectJudge | QuestionAnswerer
) -> ScoreCard:
    height, width = subject.size_px
    return ScoreCard(
        **_common(data, settings, judge),
        images_per_prompt=settings.images_per_prompt,
        first_seed=settings.seed,
        seed_formula=SEED_FORMULA,
        height_px=height,
        width_px=width,
        model={"name": subject.name, "digest": subject.digest},
        sampler=subject.sampler.model_dump(),
        device=subject.device,
        dtype=subject.dtype,
    )


def _card_of_images(
    paths: Sequence[Path],
    data: GenEvalData | DpgData,
    settings: BenchmarkParams,
    judge: ObjectJudge | QuestionAnswerer,
    name: str,
) -> ScoreCard:
    height, width = read_size(next(path for path in paths if path.is_file()))
    return ScoreCard(
        **_common(data, settings, judge),
        images_per_prompt=settings.images_per_prompt,
        first_seed=None,
        seed_formula=None,
        height_px=height,
        width_px=width,
        model={"name": name, "digest": digest_images(paths)},
        sampler=None,
        device=None,
        dtype=None,
    )


def _common(
    data: GenEvalData | DpgData, settings: BenchmarkParams, judge: ObjectJudge | QuestionAnswerer
) -> dict[str, Any]:
    """Fields that do not depend on where the images come from; the number of images is known after judging."""
    is_geneval = isinstance(data, GenEvalData)
    return {
        "benchmark": "geneval" if is_geneval else "dpg",
        "protocol": geneval.PROTOCOL,
        "prompts_file": data.name,
        "prompts_sha256": data.digest,
        "n_prompts": len(data.prompts if isinstance(data, GenEvalData) else data.items),
        "n_images": 0,
        "judge": {"name": judge.name, "digest": judge.digest},
        "judge_options": dict(settings.judge_options),
        "subset": settings.subset,
    }
