"""The world's judges, measured through the real GenEval and DPG-Bench scoring code.

Clean renders show their prompt; changed renders show it with ONE fact different. GenEval's protocol asks for shapes,
numbers, colours and relations; backgrounds are asked for by DPG-Bench only. `pytest -rP` prints the shares.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2p.config import EvaluationParams
from l2p.errors import EvaluationError
from l2p.evaluation.benchmark_data import DpgItem, GenEvalPrompt, load_dpg, load_geneval
from l2p.evaluation.dpg import Tile, cascade, score_answers
from l2p.evaluation.dpg_judging import answer_images
from l2p.evaluation.geneval import decide, keep_detections, prompt_scores
from l2p.evaluation.geneval_judging import judge_images
from l2p.evaluation.image_folders import dpg_images, geneval_images
from l2p.evaluation.images import DrawingCard, dpg_files, geneval_files, join_tiles, write_image
from l2p.evaluation.judgements import JudgementStore
from l2p.evaluation.judges import get_object_judge, get_question_judge
from l2p.evaluation.judges.base import Detection, QuestionAnswerer, UnjudgeableImage
from l2p.shapes.benchmarks import dpg_prompts, geneval_prompts
from l2p.shapes.questions import (
    BackgroundQuestion,
    ColorQuestion,
    CountQuestion,
    EntityQuestion,
    PlaceQuestion,
    parse,
    propositions,
)
from l2p.shapes.render import render
from l2p.shapes.world import BACKGROUNDS, COLORS, LAYOUTS, QUADRANTS, RELATIONS, SHAPES, Prompt, Thing, draw_scene

CLEAN_RENDERS = 6  # of each prompt; each changed prompt is rendered once
MIN_RIGHT, MAX_WRONG_YES = 0.99, 0.01
MACHINE = EvaluationParams(judge_batch_size=16, engine="local", num_workers=1)

Changes = Iterator[tuple[str, Prompt]]


@pytest.fixture(scope="module")
def geneval(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Prompt, GenEvalPrompt]]:
    """Each prompt as facts, and as the loader reads it from the official file."""
    data = load_geneval("shapes", tmp_path_factory.mktemp("geneval"))
    return list(zip(geneval_prompts(), data.prompts, strict=True))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Prompt, DpgItem]]:
    data = load_dpg("shapes", tmp_path_factory.mktemp("dpg"))
    return list(zip(dpg_prompts(), data.items, strict=True))


# --- one fact changed -----------------------------------------------------------------------------------------------


def with_thing(prompt: Prompt, index: int, **facts: object) -> Prompt:
    things = list(prompt.things)
    things[index] = replace(things[index], **facts)
    return replace(prompt, things=tuple(things))


def changed_shapes(prompt: Prompt) -> Changes:
    present = {thing.shape for thing in prompt.things}
    for index in range(len(prompt.things)):
        for shape in sorted(set(SHAPES) - present):
            yield "shape", with_thing(prompt, index, shape=shape)


def changed_colors(prompt: Prompt) -> Changes:
    for index, thing in enumerate(prompt.things):
        for color in COLORS:
            if thing.color is not None and color != thing.color:
                yield "color", with_thing(prompt, index, color=color)


def changed_geneval(prompt: Prompt) -> Changes:
    """Every prompt that differs from a GenEval prompt in one fact that its task asks for."""
    yield from changed_shapes(prompt)
    yield from changed_colors(prompt)
    if prompt.style == "counting":
        counts = (prompt.things[0].count - 1, prompt.things[0].count + 1)
        yield from (("count", with_thing(prompt, 0, count=count)) for count in counts if count <= max(LAYOUTS))
    if prompt.relation is not None:
        others = [relation for relation in RELATIONS if relation != prompt.relation]
        yield from (("place", replace(prompt, relation=relation)) for relation in others)


def changed_dense(prompt: Prompt) -> Changes:
    """Every kind of change of a dense prompt in one fact; objects that appear stand in a free quadrant."""
    free = [place for place in QUADRANTS if place not in {thing.quadrant for thing in prompt.things}]
    yield from changed_shapes(prompt)
    yield from changed_colors(prompt)
    others = [background for background in BACKGROUNDS if background != prompt.background]
    yield from (("background", replace(prompt, background=background)) for background in others)
    for index in range(len(prompt.things)):
        yield "place", with_thing(prompt, index, quadrant=free[0])
        yield "count", replace(prompt, things=prompt.things[:index] + prompt.things[index + 1 :])
    spare = next(shape for shape in SHAPES if shape not in {thing.shape for thing in prompt.things})
    yield "count", replace(prompt, things=(*prompt.things, Thing(spare, "blue", quadrant=free[0])))


def is_true(question: str, shown: Prompt) -> bool:
    """The answer from the facts themselves, without an image."""
    asked = parse(question)
    if isinstance(asked, BackgroundQuestion):
        return shown.background == asked.background
    if isinstance(asked, CountQuestion):
        return len(shown.things) == asked.count
    things = [thing for thing in shown.things if thing.shape == asked.shape]
    if isinstance(asked, EntityQuestion):
        return bool(things)
    if isinstance(asked, ColorQuestion):
        return any(thing.color == asked.color for thing in things)
    return any(thing.quadrant == asked.quadrant and asked.color in (None, thing.color) for thing in things)


def images_of(prompt: Prompt, count: int, rng: random.Random) -> list[np.ndarray]:
    return [render(draw_scene(prompt, rng)) for _ in range(count)]


def ask(judge: QuestionAnswerer, image: np.ndarray, item: DpgItem) -> dict[int, str]:
    answers = judge.answer([(image, question.question) for question in item.questions])
    return {question.number: answer for question, answer in zip(item.questions, answers, strict=True)}


def is_correct(prompt: GenEvalPrompt, image: np.ndarray) -> bool:
    judge = get_object_judge("shapes")
    groups = keep_detections(judge.detector.detect([image])[0], prompt.tag)
    return decide(
        prompt, groups, lambda found: judge.color_classifier.classify([(image, each) for each in found])
    ).correct


# --- accuracy -------------------------------------------------------------------------------------------------------


def test_the_detector_is_right_on_clean_renders_of_every_task(geneval):
    rng, right = random.Random(1), defaultdict(list)
    for shown, prompt in geneval:
        right[prompt.tag] += [is_correct(prompt, image) for image in images_of(shown, CLEAN_RENDERS, rng)]
    shares = {tag: float(np.mean(values)) for tag, values in right.items()}
    print(shares)
    assert len(shares) == 6
    assert min(shares.values()) >= MIN_RIGHT, shares


def test_the_detector_refuses_renders_with_one_fact_changed(geneval):
    rng, wrong = random.Random(2), defaultdict(list)
    for shown, prompt in geneval:
        for fact, changed in changed_geneval(shown):
            wrong[prompt.tag, fact].append(is_correct(prompt, render(draw_scene(changed, rng))))
    shares = {case: float(np.mean(values)) for case, values in wrong.items()}
    print({case: (share, len(wrong[case])) for case, share in shares.items()})
    assert {fact for _, fact in shares} == {"shape", "color", "count", "place"}
    assert max(shares.values()) <= MAX_WRONG_YES, shares


def test_the_answerer_is_right_on_clean_renders(dense):
    rng, right, scores = random.Random(3), defaultdict(list), []
    judge = get_question_judge("shapes")
    for shown, item in dense:
        for image in images_of(shown, CLEAN_RENDERS, rng):
            answers = ask(judge, image, item)
            for question in item.questions:
                right[question.broad_category].append(answers[question.number] == "yes")
            scores.append(np.mean(list(cascade(item.questions, answers)[0].values())))
    shares = {category: float(np.mean(values)) for category, values in right.items()}
    print(shares, np.mean(scores))
    assert set(shares) == {"entity", "attribute", "relation", "global", "other"}
    assert min(shares.values()) >= MIN_RIGHT, shares
    assert np.mean(scores) >= MIN_RIGHT


def test_the_answerer_says_no_to_the_fact_that_was_changed(dense):
    rng, wrong_yes, wrong_no, undetected = random.Random(4), defaultdict(list), [], []
    judge = get_question_judge("shapes")
    for shown, item in dense:
        for fact, changed in changed_dense(shown):
            image = render(draw_scene(changed, rng))
            answers = ask(judge, image, item)
            for question in item.questions:
                said = answers[question.number] == "yes"
                if is_true(question.question, changed):
                    wrong_no.append(not said)
                else:
                    wrong_yes[fact, question.broad_category].append(said)
            undetected.append(all(score == 1 for score in cascade(item.questions, answers)[0].values()))
    shares = {case: float(np.mean(values)) for case, values in wrong_yes.items()}
    print({case: (share, len(wrong_yes[case])) for case, share in shares.items()}, np.mean(wrong_no), len(wrong_no))
    assert {fact for fact, _ in shares} == {"shape", "color", "count", "place", "background"}
    assert max(shares.values()) <= MAX_WRONG_YES, shares
    assert np.mean(wrong_no) <= 1 - MIN_RIGHT
    assert np.mean(undetected) <= MAX_WRONG_YES


def test_clean_renders_in_the_official_folders_score_nearly_everything(tmp_path: Path):
    rng, card = random.Random(5), DrawingCard("renders", {}, 64, 64, "uint8", "cpu")
    data = load_geneval("shapes", tmp_path)
    prompts = {prompt.index: prompt.prompt for prompt in data.prompts}
    files = geneval_files(tmp_path / "images", prompts, images_per_prompt=2, first_seed=0)
    for file, shown in zip(files, np.repeat(np.array(geneval_prompts(), dtype=object), 2), strict=True):
        write_image(file, render(draw_scene(shown, rng)), card)
    store = JudgementStore(tmp_path / "judgements.jsonl")
    images = geneval_images(tmp_path / "images", data, 2)
    rows, failures = judge_images(images, get_object_judge("shapes"), store, MACHINE)
    assert failures == []
    assert prompt_scores(rows).overall() >= MIN_RIGHT


def test_clean_renders_in_official_grids_score_nearly_everything(tmp_path: Path):
    rng, card = random.Random(6), DrawingCard("renders", {}, 64, 64, "uint8", "cpu")
    data = load_dpg("shapes", tmp_path)
    files = dpg_files(tmp_path / "images", data.items, images_per_prompt=4, first_seed=0)
    for file, shown in zip(files, dpg_prompts(), strict=True):
        write_image(file, join_tiles(images_of(shown, 4, rng)), card)
    store, judge = JudgementStore(tmp_path / "judgements.jsonl"), get_question_judge("shapes")
    tiles, failures = answer_images(dpg_images(tmp_path / "images", data, 4, (64, 64)), judge, store, MACHINE)
    assert failures == []
    assert len(tiles) == 160
    assert score_answers(data, tiles, "fixed").items.overall() >= MIN_RIGHT
    official = score_answers(data, tiles, "official")
    assert official.items.overall() >= MIN_RIGHT
    assert [failure.image for failure in official.dropped] == ["shapes000"]
    assert all(isinstance(tile, Tile) for tile in official.tiles)


# --- images that are not clean renders ------------------------------------------------------------------------------


def blank(color: int = 250) -> np.ndarray:
    return np.full((64, 64, 3), color, dtype=np.uint8)


@pytest.mark.parametrize("image", [blank(), blank(0), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)])
def test_images_of_nothing_show_no_prompt(image: np.ndarray, geneval, dense):
    assert not any(is_correct(prompt, image) for _, prompt in geneval)
    judge = get_question_judge("shapes")
    asked = [question for _, item in dense for question in item.questions if question.broad_category != "global"]
    assert set(judge.answer([(image, question.question) for question in asked])) == {"no"}


def test_a_background_that_is_none_of_the_world_is_not_called_the_nearest_one():
    judge = get_question_judge("shapes")
    for name, rgb in BACKGROUNDS.items():
        image = np.full((64, 64, 3), rgb, dtype=np.uint8)
        assert judge.answer([(image, f"Is the background {name}?")]) == ["yes"]
        assert judge.answer([(image // 2, f"Is the background {name}?")]) == ["no"]


def test_an_object_in_the_middle_is_in_no_quadrant():
    image = render(draw_scene(Prompt("colors", "", (Thing("circle", "red"),)), random.Random(0)))
    judge = get_question_judge("shapes")
    assert judge.answer([(image, "Is there a circle?")]) == ["yes"]
    assert set(judge.answer([(image, f"Is the red circle in the {place}?") for place in QUADRANTS])) == {"no"}


@pytest.mark.parametrize("size", [128, 256])
def test_larger_images_are_judged_alike_with_boxes_in_their_own_pixels(size: int, geneval):
    rng, detector = random.Random(8), get_object_judge("shapes").detector
    for shown, prompt in geneval[::7]:
        small = render(draw_scene(shown, rng))
        large = np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.NEAREST))
        assert is_correct(prompt, large)
        for found, expected in zip(*detector.detect([large, small]), strict=True):
            assert found.box == tuple(value * size / 64 for value in expected.box)
            assert found.mask is not None
            assert found.mask.shape == (size, size)


def test_an_image_that_is_not_rgb_is_unjudgeable():
    for image in (blank()[..., 0], blank().astype(np.float32)):
        with pytest.raises(UnjudgeableImage, match="uint8 RGB"):
            get_object_judge("shapes").detector.detect([image])
        with pytest.raises(UnjudgeableImage, match="uint8 RGB"):
            get_question_judge("shapes").answer([(image, "Is there a circle?")])


def test_a_colour_without_a_mask_is_unjudgeable():
    with pytest.raises(UnjudgeableImage, match="no mask"):
        get_object_judge("shapes").color_classifier.classify([(blank(), Detection("circle", 1.0, (0, 0, 9, 9)))])


# --- questions ------------------------------------------------------------------------------------------------------


def test_every_question_that_is_asked_can_be_read_back():
    kinds = {type(parse(row.question)) for prompt in dpg_prompts() for row in propositions(prompt)}
    assert kinds == {EntityQuestion, ColorQuestion, PlaceQuestion, BackgroundQuestion, CountQuestion}
    assert parse("Is the star in the top left?") == PlaceQuestion("star", None, "top left")


@pytest.mark.parametrize("question", ["Is there a dog?", "Is the circle mauve?", "Is there a circle", "How many?", ""])
def test_a_question_of_another_world_is_an_error_and_never_a_no(question: str):
    with pytest.raises(EvaluationError, match="cannot read it"):
        get_question_judge("shapes").answer([(blank(), question)])


def test_parents_come_before_their_children():
    for prompt in dpg_prompts():
        for row in propositions(prompt):
            assert all(parent < row.number for parent in row.parents)


def test_an_unknown_judge_is_named_with_the_known_ones():
    with pytest.raises(EvaluationError, match=r"'clip'.*known: mask2former, shapes"):
        get_object_judge("clip")
    with pytest.raises(EvaluationError, match=r"'blip'.*known: mplug, shapes, vqa"):
        get_question_judge("blip")
