"""Writes small run folders of one evaluated model: flat images, verdicts as a test wants them, real scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from l2p.evaluation import dpg, geneval
from l2p.evaluation.benchmark_data import DpgData, DpgItem, DpgQuestion
from l2p.evaluation.judgements import Failure
from l2p.evaluation.scores import ScoreCard
from l2p.files import read_json

SIZE_PX = (200, 100)  # width, height


def geneval_row(index: int, *, correct: bool = True, tag: str = "two_object", **fields: Any) -> dict[str, Any]:
    """A line of results.jsonl; a wrong one found nothing."""
    include = [{"class": "circle", "count": 1}, {"class": "star", "count": 1}]
    prompt = fields.pop("prompt", f"prompt {index}")
    row = {
        "filename": f"images/{index:05d}/samples/0000.png",
        "tag": tag,
        "prompt": prompt,
        "correct": correct,
        "reason": "" if correct else "expected circle>=1, found 0",
        "metadata": json.dumps({"tag": tag, "include": include, "prompt": prompt}),
        "details": "{}",
    }
    return row | fields


def write_geneval_run(folder: Path, rows: list[dict[str, Any]], **card: Any) -> Path:
    """results.jsonl, scores.json and an image for each row (next to `folder`'s files, or where its name says)."""
    for row in rows:
        write_image(folder / row["filename"])
    geneval.write_results(rows, folder)
    geneval.write_scores(rows, folder, _card("geneval", n_images=len(rows), **card))
    return folder


def dpg_item(index: int, *, questions: int = 2) -> DpgItem:
    """An item whose later questions all depend on the first."""
    asked = tuple(
        DpgQuestion(number, () if number == 1 else (1,), f"entity - whole ({number})", f"Is there thing {number}?", 1)
        for number in range(1, questions + 1)
    )
    return DpgItem(index, f"item{index:02d}", f"dense prompt {index}", asked)


def write_dpg_run(folder: Path, items: list[DpgItem], said: dict[str, list[list[str]]], **card: Any) -> Path:
    """answers.jsonl, scores.json and a grid per item; `said` holds the answers to each image of an item."""
    tiles = [
        dpg.Tile(item.item_id, number, f"images/{item.item_id}.png", dict(enumerate(answers, start=1)))
        for item in items
        for number, answers in enumerate(said[item.item_id])
    ]
    for item in items:
        write_image(folder / f"images/{item.item_id}.png")
    result = dpg.score_answers(DpgData("test", tuple(items)), tiles, "fixed")
    dpg.write_answers(result, folder)
    dpg.write_scores(result, folder, _card("dpg", n_images=len(tiles), **card))
    return folder


def write_image(path: Path, size_px: tuple[int, int] = SIZE_PX) -> Path:
    """A flat image of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_px, (90, 120, 150)).save(path)
    return path


def read_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """Rows of results.jsonl or answers.jsonl."""
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def read_scores(folder: Path) -> dict[str, Any]:
    """scores.json."""
    return read_json(folder / "scores.json", written_by="")


def _card(benchmark: str, *, name: str = "a model", failures: tuple[Failure, ...] = (), **fields: Any) -> ScoreCard:
    standard = {
        "protocol": "official" if benchmark == "geneval" else "fixed",
        "prompts_file": "test",
        "prompts_sha256": "0" * 64,
        "n_prompts": 4,
        "n_images": 4,
        "images_per_prompt": 1,
        "first_seed": None,
        "seed_formula": None,
        "height_px": SIZE_PX[1],
        "width_px": SIZE_PX[0],
        "sampler": None,
        "judge": {"name": "a judge", "digest": "1" * 64},
        "judge_options": {"threshold": 0.3},
        "device": None,
        "dtype": None,
    }
    model = {"name": name, "digest": "2" * 64}
    return ScoreCard(benchmark=benchmark, model=model, failures=list(failures), **(standard | fields))
