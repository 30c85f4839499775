"""Owns the page of one evaluation: what a model scored, and samples of what the judge found right and wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from l2p.evaluation import dpg, geneval
from l2p.evaluation.bars import dpg_bars, geneval_bars
from l2p.evaluation.dense_gallery import dense_groups
from l2p.evaluation.gallery import geneval_groups
from l2p.evaluation.pages import write_page
from l2p.evaluation.retention import read_rows
from l2p.files import read_json

TEMPLATE = "run.html.j2"
_WRITTEN_BY = "l2p evaluate"


def write_run_page(folder: Path, path: Path) -> None:
    """Write the page of one evaluated model.

    Args:
        folder: of the run: scores.json, results.jsonl or answers.jsonl, and the images that these name (in the folder,
            or anywhere else).
        path: of the page.

    Raises:
        MissingFileError: the run has not been scored.
        DataError: one of its files is damaged.
    """
    scores = read_json(folder / geneval.SCORES, written_by=_WRITTEN_BY)
    card, name = scores["card"], scores["card"]["model"]["name"]
    content: dict[str, Any] = {"scores": scores, "card": card, "groups": [], "dense": []}
    if card["benchmark"] == "geneval":
        rows = read_rows(folder / geneval.RESULTS, _WRITTEN_BY)
        content |= {"bars": geneval_bars({name: scores}), "groups": geneval_groups({name: folder}, {name: rows})}
    else:
        rows = read_rows(folder / dpg.ANSWERS, _WRITTEN_BY)
        content |= {"bars": dpg_bars({name: scores}), "dense": dense_groups({name: folder}, {name: rows})}
    write_page(TEMPLATE, content, path)
