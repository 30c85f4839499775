"""Owns the world's benchmarks: held-out prompts, written in the official file formats of GenEval and DPG-Bench."""

from __future__ import annotations

import csv
import itertools
import json
import random
from pathlib import Path
from typing import Any

from l2p.files import atomic_path
from l2p.shapes.captions import (
    BENCHMARK_OPENING,
    HELD_OUT_BACKED,
    HELD_OUT_COLORED,
    HELD_OUT_COUNTED,
    HELD_OUT_ORDERED,
    color_attr,
    colors,
    counting,
    dense,
    position,
    single_object,
    two_object,
)
from l2p.shapes.questions import propositions
from l2p.shapes.world import BACKGROUNDS, COLORS, QUADRANTS, RELATIONS, SHAPES, Prompt, Thing

GENEVAL_FILE = "evaluation_metadata.jsonl"
DPG_FILE, DPG_PROMPTS = "dpg_bench.csv", "prompts"
DPG_COLUMNS = (
    "item_id",
    "text",
    "keywords",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "tuple",
    "question_natural_language",
)
DPG_PROMPT_COUNT = 40
_BACKGROUNDS_PER_RELATION = 2
_COLOR_ATTR_PER_PAIR = 8
_SEED = 20  # of the two samples; changing it makes another benchmark

_BACKGROUNDS = (None, *BACKGROUNDS)
_ORDERED = sorted(HELD_OUT_ORDERED)


def geneval_prompts() -> list[Prompt]:
    """The GenEval prompts, task by task, 111 in all; always the same."""
    o = BENCHMARK_OPENING
    return [
        *(single_object(o, shape, background) for shape, background in sorted(HELD_OUT_BACKED)),
        *(two_object(o, *pair, background) for pair in _ORDERED for background in _BACKGROUNDS),
        *(counting(o, *pair, background) for pair in sorted(HELD_OUT_COUNTED) for background in _BACKGROUNDS),
        *(colors(o, *pair, background) for pair in sorted(HELD_OUT_COLORED) for background in _BACKGROUNDS),
        *_position_prompts(random.Random(_SEED)),
        *_color_attr_prompts(random.Random(_SEED)),
    ]


def dpg_prompts() -> list[Prompt]:
    """The dense prompts, half with two and half with three things of different shapes; always the same."""
    rng = random.Random(_SEED)
    found: dict[str, Prompt] = {}
    for pair, count in itertools.cycle(itertools.product(_ORDERED, (2, 3))):
        if len(found) == DPG_PROMPT_COUNT:
            break
        prompt = _dense_prompt(pair, count, rng)
        found.setdefault(prompt.text, prompt)
    return list(found.values())


def write_geneval(folder: Path) -> Path:
    """Write `evaluation_metadata.jsonl` into `folder`, atomically; returns its path."""
    path = folder / GENEVAL_FILE
    with atomic_path(path) as partial:
        lines = [json.dumps(geneval_metadata(prompt)) for prompt in geneval_prompts()]
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_dpg(folder: Path) -> Path:
    """Write `prompts/<item_id>.txt` and then `dpg_bench.csv` into `folder`; returns the path of the CSV."""
    path = folder / DPG_FILE
    rows = []
    for index, prompt in enumerate(dpg_prompts()):
        item_id = f"shapes{index:03d}"
        with atomic_path(folder / DPG_PROMPTS / f"{item_id}.txt") as partial:
            partial.write_text(prompt.text + "\n", encoding="utf-8")
        rows += _dpg_rows(item_id, prompt)
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, DPG_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def geneval_metadata(prompt: Prompt) -> dict[str, Any]:
    """One line of GenEval's metadata; for a position the target comes first, as in the official file."""
    clauses = [_clause(thing) for thing in prompt.things]
    if prompt.relation is not None:
        subject, target = clauses
        clauses = [target, subject | {"position": [prompt.relation, 0]}]
    line: dict[str, Any] = {"tag": prompt.style, "include": clauses}
    if prompt.style == "counting":
        line["exclude"] = [{"class": thing.shape, "count": thing.count + 1} for thing in prompt.things]
    return line | {"prompt": prompt.text}


def _clause(thing: Thing) -> dict[str, Any]:
    stated = {} if thing.color is None else {"color": thing.color}
    return {"class": thing.shape, "count": thing.count, **stated}


def _position_prompts(rng: random.Random) -> list[Prompt]:
    """Every held-out pair with every relation, on two backgrounds each."""
    return [
        position(BENCHMARK_OPENING, first, relation, second, background)
        for (first, second), relation in itertools.product(_ORDERED, RELATIONS)
        for background in rng.sample(_BACKGROUNDS, _BACKGROUNDS_PER_RELATION)
    ]


def _color_attr_prompts(rng: random.Random) -> list[Prompt]:
    """Every held-out pair with eight draws of two different colours and a background."""
    prompts = []
    for first, second in _ORDERED:
        pairs = itertools.product(_free_colors(first), _free_colors(second), _BACKGROUNDS)
        allowed = [draw for draw in pairs if draw[0] != draw[1]]
        for one, other, background in rng.sample(allowed, _COLOR_ATTR_PER_PAIR):
            prompts.append(color_attr(BENCHMARK_OPENING, Thing(first, one), Thing(second, other), background))
    return prompts


def _dense_prompt(pair: tuple[str, str], count: int, rng: random.Random) -> Prompt:
    others = [shape for shape in SHAPES if shape not in pair]
    shapes = [*pair, *rng.sample(others, count - len(pair))]
    places = rng.sample(list(QUADRANTS), count)
    things = [
        Thing(shape, rng.choice(_free_colors(shape)), quadrant=place)
        for shape, place in zip(shapes, places, strict=True)
    ]
    return dense(tuple(things), rng.choice(list(BACKGROUNDS)))


def _free_colors(shape: str) -> list[str]:
    """Colours in which training shows `shape`: a prompt tests one kind of novelty at a time."""
    return [color for color in COLORS if (color, shape) not in HELD_OUT_COLORED]


def _dpg_rows(item_id: str, prompt: Prompt) -> list[dict[str, Any]]:
    return [
        {
            "item_id": item_id,
            "text": prompt.text,
            "keywords": ", ".join(thing.shape for thing in prompt.things),
            "proposition_id": proposition.number,
            "dependency": proposition.dependency,
            "category_broad": proposition.kind[0],
            "category_detailed": proposition.kind[1],
            "tuple": proposition.tuple_text,
            "question_natural_language": proposition.question,
        }
        for proposition in propositions(prompt)
    ]
