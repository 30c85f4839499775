"""Images a judge looks at in a second: in batches, against one by one as the official scripts go about it.

    python -m bench.judging                 # all judges, some minutes
    python -m bench.judging --judges shapes --images 200 --repeats 5

One by one means: read an image, detect in it alone, name each object's colour alone, decide; for DPG-Bench, look at the
image anew for each of its questions. Both ways use the same judge and must come to the same answers. They take turns,
so that both see the same machine; figures are medians, the ratio is of the fastest turns. Mask2Former with CLIP and
BLIP are tiny here and randomly initialised: batches save the overhead around a network, not its arithmetic. At the
`checkpoint`'s size of 64 pixels overhead is what there is; at the `official` 800 pixels a CPU is busy with arithmetic.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.tiny_judges import build_tiny_clip, build_tiny_mask2former
from bench.tiny_vqa import save_blip
from l2p.evaluation.benchmark_data import Clause, DpgQuestion, GenEvalPrompt, load_dpg, load_geneval
from l2p.evaluation.dpg_judging import DpgImage, TileJudge, cut_tile
from l2p.evaluation.engine import split
from l2p.evaluation.geneval import decide, keep_detections
from l2p.evaluation.geneval_judging import GenEvalImage, ImageJudge
from l2p.evaluation.judgements import read_image
from l2p.evaluation.judges import get_object_judge, get_question_judge
from l2p.evaluation.judges.base import ObjectJudge, QuestionAnswerer
from l2p.shapes.benchmarks import dpg_prompts, geneval_prompts
from l2p.shapes.render import render
from l2p.shapes.world import Prompt, draw_scene

BATCH_SIZE = 32
JUDGES = ("shapes", "mask2former", "vqa")
_QUESTIONS_A_BATCH = 64


@dataclass(frozen=True)
class Case:
    """A judge on a benchmark: both ways give their answers for all images."""

    name: str
    images: int
    one_by_one: Callable[[], list[Any]]
    batched: Callable[[], list[Any]]


@dataclass(frozen=True)
class Rate:
    """Images a second (medians), and how many times faster batches were (fastest turns)."""

    name: str
    one_by_one: float
    batched: float
    ratio: float


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=list(JUDGES))
    parser.add_argument("--images", type=int, default=96, help="images of each benchmark")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way")
    arguments = parser.parse_args()
    print(f"\nbatches of {BATCH_SIZE} images or {_QUESTIONS_A_BATCH} questions; images a second\n")
    print(f"{'judge':<28}{'one by one':>12}{'batches':>10}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.judges:
            for case in cases(name, Path(folder) / name, arguments.images):
                rate = measure(case, arguments.repeats)
                print(f"{rate.name:<28}{rate.one_by_one:>12.1f}{rate.batched:>10.1f}{rate.ratio:>8.2f}", flush=True)


def cases(judge: str, folder: Path, count: int) -> list[Case]:
    """The cases of a judge; its files go into `folder`."""
    if judge == "shapes":
        own = [_geneval_case("shapes, GenEval", get_object_judge("shapes"), folder, count)]
        return [*own, _dpg_case("shapes, DPG-Bench", get_question_judge("shapes"), folder, count)]
    if judge == "mask2former":
        models = {
            "detector": str(build_tiny_mask2former(folder / "detector")),
            "colors": str(build_tiny_clip(folder / "colors")),
        }
        return [
            _geneval_case(
                f"tiny Mask2Former, {size}",
                get_object_judge("mask2former", models | {"image_size": size}),
                folder,
                count,
            )
            for size in ("checkpoint", "official")
        ]
    save_blip(folder / "blip")
    judge_options = {"model": str(folder / "blip")}
    return [_dpg_case("tiny BLIP, DPG-Bench", get_question_judge("vqa", judge_options), folder, count)]


def measure(case: Case, repeats: int) -> Rate:
    """Let both ways take turns.

    Raises:
        AssertionError: they do not come to the same answers.
    """
    assert case.one_by_one() == case.batched(), f"{case.name}: batches change answers"
    seconds: dict[str, list[float]] = {"one_by_one": [], "batched": []}
    for _ in range(repeats):
        for name, own in seconds.items():
            start = time.perf_counter()
            getattr(case, name)()
            own.append(time.perf_counter() - start)
    rates = {name: case.images / statistics.median(own) for name, own in seconds.items()}
    ratio = min(seconds["one_by_one"]) / min(seconds["batched"])
    return Rate(case.name, rates["one_by_one"], rates["batched"], ratio)


def _geneval_case(name: str, judge: ObjectJudge, folder: Path, count: int) -> Case:
    prompts = _prompts(judge, folder)
    paths = _renders(folder / "geneval", geneval_prompts(), count)
    images = [GenEvalImage(path, path.name, prompts[n % len(prompts)]) for n, path in enumerate(paths)]
    batched = ImageJudge(judge)
    return Case(
        name,
        len(images),
        lambda: [_judge_alone(judge, image) for image in images],
        lambda: [_decision(row) for batch in split(images, BATCH_SIZE) for row in batched(batch)],
    )


def _judge_alone(judge: ObjectJudge, image: GenEvalImage) -> tuple[bool, str]:
    pixels = read_image(image.path)
    kept = keep_detections(judge.detector.detect([pixels])[0], image.prompt.tag)
    decision = decide(
        image.prompt,
        kept,
        lambda found: [judge.color_classifier.classify([(pixels, each)])[0] for each in found],
    )
    return decision.correct, decision.reason


def _decision(row: Any) -> tuple[bool, str]:
    return row["correct"], row["reason"]


def _dpg_case(name: str, judge: QuestionAnswerer, folder: Path, count: int) -> Case:
    items = load_dpg("shapes", folder).items
    paths = _renders(folder / "dpg", dpg_prompts(), count)
    images = [DpgImage(path, path.name, items[n % len(items)], 0, None) for n, path in enumerate(paths)]
    batched, size = TileJudge(judge), max(1, _QUESTIONS_A_BATCH // max(len(item.questions) for item in items))
    return Case(
        name,
        len(images),
        lambda: [[_ask_alone(judge, image, asked) for asked in image.item.questions] for image in images],
        lambda: [answers for batch in split(images, size) for answers in batched(batch)],
    )


def _ask_alone(judge: QuestionAnswerer, image: DpgImage, asked: DpgQuestion) -> str:
    return judge.answer([(cut_tile(image, read_image(image.path)), asked.question)])[0]


def _prompts(judge: ObjectJudge, folder: Path) -> Sequence[GenEvalPrompt]:
    """The world's prompts, or for a judge of photographs prompts of its own words that ask for colours."""
    data = load_geneval("shapes", folder)
    if data.prompts[0].include[0].label in judge.detector.labels:
        return data.prompts
    labels = sorted(judge.detector.labels)
    clauses = [(Clause(label, 1, color),) for label, color in zip(labels, 8 * ["red", "blue"], strict=False)]
    return [GenEvalPrompt(n, "colors", "", clause, (), {}) for n, clause in enumerate(clauses)]


def _renders(folder: Path, prompts: Sequence[Prompt], count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    paths = [folder / f"{number:04d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        image = render(draw_scene(prompts[number % len(prompts)], rng)).astype(np.float64)
        noisy = image + np.random.default_rng(number).normal(0, 4, image.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return paths


if __name__ == "__main__":
    main()
