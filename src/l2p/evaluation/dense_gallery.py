"""Owns which of DPG-Bench's images a page shows, with the questions and how often each model was answered "yes".

Nothing is chosen by its looks: items are ranked (two models: by pixel score minus source score; one: by its score), and
both ends and the middle are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from l2p.evaluation import dpg
from l2p.evaluation.images import read_card
from l2p.evaluation.pictures import Picture, locate_image, read_picture

PER_END = 2
SHOWN = 6
MAX_SIDE_PX = 480  # a grid is shown at most 240 px wide
_PERCENT = 100.0

Row = dict[str, Any]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Count:
    """How many of `of` judged images were answered "yes", and how many of those were zeroed."""

    yes: int
    of: int
    zeroed: int


@dataclass(frozen=True)
class AskedQuestion:
    """A question with its counts, one for each model; `category` is empty where the answers do not tell it."""

    text: str
    category: str
    counts: tuple[Count, ...]


@dataclass(frozen=True)
class DenseShot:
    """All `count` images of an item by one model, in one picture of two columns (None: a file cannot be read).

    `score` is 0..100; `failures` say why images have no answers.
    """

    model: str
    picture: Picture | None
    count: int
    score: float
    failures: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows of the picture."""
        return -(-self.count // 2)


@dataclass(frozen=True)
class DenseItem:
    """An item; `prompt` is None where neither answers nor images tell it."""

    item_id: str
    prompt: str | None
    shots: tuple[DenseShot, ...]
    questions: tuple[AskedQuestion, ...]

    @property
    def difference(self) -> float:
        """Score of the last model minus that of the first."""
        return self.shots[-1].score - self.shots[0].score


@dataclass(frozen=True)
class DenseGroup:
    """Items at one place of the ranking."""

    title: str
    items: tuple[DenseItem, ...]


def dense_groups(folders: Mapping[str, Path], rows: Mapping[str, Sequence[Row]]) -> list[DenseGroup]:
    """Items of both ends and of the middle of the ranking; groups that are empty are left out.

    Args:
        folders: of the runs of one or two models, by the name of the model.
        rows: of their answers.jsonl; items that not all models have (the official protocol drops some) are left out.
    """
    values = [dpg.item_scores(rows[model]).values for model in folders]
    common = [item for item in values[0] if all(item in each for each in values)]
    if not common:
        return []
    two = len(folders) > 1
    worth = {item: values[-1][item] - (values[0][item] if two else 0.0) for item in common}
    ranked = sorted(common, key=lambda item: worth[item])
    bounds = (0.0, 0.0) if two else (worth[ranked[-1]], worth[ranked[0]])
    low, middle, high = pick_ends(ranked, worth, bounds)
    titles = ("lost most", "in the middle", "gained most") if two else ("lowest", "in the middle", "highest")
    if not low and not high:
        titles = ("", "all alike", "")
    by_item = {model: _by_item(rows[model]) for model in folders}
    return [
        DenseGroup(title, tuple(_item(item, folders, by_item) for item in items))
        for title, items in zip(titles, (low, middle, high), strict=True)
        if items
    ]


def pick_ends(
    ranked: Sequence[_Item], worth: Mapping[_Item, float], bounds: tuple[float, float]
) -> tuple[list[_Item], list[_Item], list[_Item]]:
    """At most six of `ranked` (worst first), none twice.

    Args:
        ranked: what to pick from.
        worth: what it is ranked by.
        bounds: the low end is below the first, the high end above the second.

    Returns:
        The worst two, those in the middle of the rest, and the best two, best first.
    """
    low = [item for item in ranked[:PER_END] if worth[item] < bounds[0]]
    rest = ranked[len(low) :]
    high = [item for item in rest[::-1][:PER_END] if worth[item] > bounds[1]]
    rest = rest[: len(rest) - len(high)]
    count = min(SHOWN - len(low) - len(high), len(rest))
    start = (len(rest) - count) // 2
    return low, list(rest[start : start + count]), high


def _by_item(rows: Sequence[Row]) -> dict[str, list[Row]]:
    by_item: dict[str, list[Row]] = {}
    for row in rows:
        by_item.setdefault(row["item_id"], []).append(row)
    return by_item


def _item(item_id: str, folders: Mapping[str, Path], by_item: Mapping[str, Mapping[str, list[Row]]]) -> DenseItem:
    tiles = {model: by_item[model][item_id] for model in folders}
    paths = {model: _paths(folders[model], own) for model, own in tiles.items()}
    prompts = (_drawn_from(path) for own in paths.values() for path in own)
    return DenseItem(
        item_id,
        next((prompt for prompt in prompts if prompt), None),
        tuple(_shot(model, paths[model], own) for model, own in tiles.items()),
        _questions(list(tiles.values())),
    )


def _paths(folder: Path, tiles: Sequence[Row]) -> list[Path]:
    """The file of each tile, or of all of them when they lie in one grid."""
    return [locate_image(folder, name) for name in dict.fromkeys(tile["filename"] for tile in tiles)]


def _drawn_from(path: Path) -> str | None:
    """The prompt, as an image that we drew tells it."""
    card = read_card(path) if path.is_file() else None
    return None if card is None else str(card["prompt"])


def _shot(model: str, paths: Sequence[Path], tiles: Sequence[Row]) -> DenseShot:
    failures = tuple(dict.fromkeys(tile["failure"] for tile in tiles if tile["failure"] is not None))
    score = _PERCENT * sum(tile["score"] for tile in tiles) / len(tiles)
    return DenseShot(model, read_picture(paths, max_side_px=MAX_SIDE_PX), len(tiles), score, failures)


def _questions(tiles_by_model: Sequence[Sequence[Row]]) -> tuple[AskedQuestion, ...]:
    """Questions in their own order. Answers that were written before they told the questions give the ids alone."""
    tiles = [tile for own in tiles_by_model for tile in own]
    texts = {name: text for tile in tiles for name, text in tile.get("questions", {}).items()}
    categories = {name: text for tile in tiles for name, text in tile.get("categories", {}).items()}
    if not texts:
        texts = {name: f"question {name}" for tile in tiles for name in tile["answers"] or {}}
    return tuple(
        AskedQuestion(texts[name], categories.get(name, ""), tuple(_count(name, own) for own in tiles_by_model))
        for name in sorted(texts, key=int)
    )


def _count(name: str, tiles: Sequence[Row]) -> Count:
    answers = [tile["answers"][name] for tile in tiles if tile["answers"] is not None]
    zeroed = sum(int(name) in tile["zeroed"] for tile in tiles)
    return Count(sum(answer == dpg.YES for answer in answers), len(answers), zeroed)
