"""The world's own benchmarks: official formats, and nothing of them among the training prompts."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from l2p.evaluation.benchmark_data import load_dpg, load_geneval
from l2p.shapes import captions
from l2p.shapes.benchmarks import DPG_COLUMNS, dpg_prompts, geneval_prompts, write_dpg, write_geneval
from l2p.shapes.captions import BENCHMARK_OPENING, HELD_OUT_COLORED, is_held_out, training_prompts
from l2p.shapes.world import COLORS, RELATIONS, SHAPES, Prompt, Thing

DRAWS = 20_000


@pytest.fixture(scope="module")
def benchmark() -> list[Prompt]:
    return [*geneval_prompts(), *dpg_prompts()]


@pytest.fixture(scope="module")
def drawn() -> list[Prompt]:
    return list(training_prompts(DRAWS, random.Random(7)))


def test_every_benchmark_prompt_is_held_out(benchmark: list[Prompt]):
    assert [prompt.text for prompt in benchmark if not is_held_out(prompt)] == []


def test_no_drawn_training_prompt_is_held_out(drawn: list[Prompt]):
    assert [prompt.text for prompt in drawn if is_held_out(prompt)] == []


def test_no_benchmark_text_is_among_the_drawn_training_texts(benchmark: list[Prompt], drawn: list[Prompt]):
    assert {prompt.text for prompt in benchmark}.isdisjoint(prompt.text for prompt in drawn)


def every_short_training_text() -> set[str]:
    """All texts of the six GenEval styles that the training draw can produce (dense prompts are too many to list)."""
    backgrounds, pairs = captions._STATED_BACKGROUNDS, list(itertools.permutations(SHAPES, 2))
    prompts: list[Prompt] = []
    for opening, background in itertools.product(captions.OPENINGS, backgrounds):
        prompts += [captions.single_object(opening, shape, background) for shape in SHAPES]
        prompts += [captions.two_object(opening, *pair, background) for pair in pairs]
        prompts += [captions.counting(opening, n, shape, background) for n in (2, 3, 4) for shape in SHAPES]
        prompts += [captions.colors(opening, color, shape, background) for color in COLORS for shape in SHAPES]
        prompts += [captions.position(opening, a, r, b, background) for a, b in pairs for r in RELATIONS]
        prompts += [
            captions.color_attr(opening, Thing(a, one), Thing(b, other), background)
            for a, b in pairs
            for one, other in itertools.permutations(COLORS, 2)
        ]
    return {prompt.text for prompt in prompts if not is_held_out(prompt)}


def test_no_benchmark_text_is_among_all_short_training_texts(benchmark: list[Prompt], drawn: list[Prompt]):
    texts = every_short_training_text()
    assert {prompt.text for prompt in drawn if prompt.style != "dense"} <= texts
    assert texts.isdisjoint(prompt.text for prompt in benchmark)


def test_geneval_has_all_six_tasks_and_no_prompt_twice(benchmark: list[Prompt]):
    assert Counter(prompt.style for prompt in benchmark) == {
        "single_object": 8,
        "two_object": 15,
        "counting": 20,
        "colors": 20,
        "position": 24,
        "color_attr": 24,
        "dense": 40,
    }
    assert len({prompt.text for prompt in benchmark}) == len(benchmark)
    assert all(prompt.text.startswith(BENCHMARK_OPENING) for prompt in geneval_prompts())


def test_pairs_of_colours_and_dense_prompts_test_one_novelty_at_a_time(benchmark: list[Prompt]):
    mixed = [prompt for prompt in benchmark if prompt.style in ("color_attr", "dense")]
    assert not any((thing.color, thing.shape) in HELD_OUT_COLORED for prompt in mixed for thing in prompt.things)


def test_dense_prompts_name_each_shape_and_place_once():
    for prompt in dpg_prompts():
        assert len({thing.shape for thing in prompt.things}) == len(prompt.things)
        assert len({thing.quadrant for thing in prompt.things}) == len(prompt.things)
    assert Counter(len(prompt.things) for prompt in dpg_prompts()) == {2: 20, 3: 20}


def test_the_geneval_file_is_official_metadata(tmp_path: Path):
    lines = [json.loads(line) for line in write_geneval(tmp_path).read_text(encoding="utf-8").splitlines()]
    by_prompt = {line["prompt"]: line for line in lines}
    counting = by_prompt["a photo of three circles"]
    assert counting == {
        "tag": "counting",
        "include": [{"class": "circle", "count": 3}],
        "exclude": [{"class": "circle", "count": 4}],
        "prompt": "a photo of three circles",
    }
    position = next(line for line in lines if line["tag"] == "position")
    subject, target = position["include"][1], position["include"][0]
    assert position["prompt"].startswith(
        f"a photo of a {subject['class']} {subject['position'][0]} a {target['class']}"
    )
    assert subject["position"][1] == 0


def test_the_dpg_table_is_official_and_its_graph_is_that_of_the_prompt(tmp_path: Path):
    path = write_dpg(tmp_path)
    assert path.read_text(encoding="utf-8").splitlines()[0] == ",".join(DPG_COLUMNS)
    item = load_dpg(str(path), tmp_path).items[0]
    prompt = dpg_prompts()[0]
    (first, second), background = prompt.things, prompt.background
    assert item.prompt == prompt.text
    assert [
        (question.number, question.parents, question.tuple_text, question.question) for question in item.questions
    ] == [
        (1, (), f"entity - whole ({first.shape})", f"Is there a {first.shape}?"),
        (2, (1,), f"attribute - color ({first.shape}, {first.color})", f"Is the {first.shape} {first.color}?"),
        (
            3,
            (1,),
            f"relation - spatial ({first.shape}, {first.quadrant})",
            f"Is the {first.color} {first.shape} in the {first.quadrant}?",
        ),
        (4, (), f"entity - whole ({second.shape})", f"Is there a {second.shape}?"),
        (5, (4,), f"attribute - color ({second.shape}, {second.color})", f"Is the {second.shape} {second.color}?"),
        (
            6,
            (4,),
            f"relation - spatial ({second.shape}, {second.quadrant})",
            f"Is the {second.color} {second.shape} in the {second.quadrant}?",
        ),
        (7, (), f"global - background ({background})", f"Is the background {background}?"),
        (8, (1, 4), "other - count (shapes, ==2)", "Are there exactly two shapes?"),
    ]


def test_both_sets_load_by_name_and_are_the_same_every_time(tmp_path: Path):
    digests = {
        (load_geneval("shapes", tmp_path / name).digest, load_dpg("shapes", tmp_path / name).digest) for name in "ab"
    }
    assert len(digests) == 1
