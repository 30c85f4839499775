"""Owns which of GenEval's images a page shows: for each task, samples of every outcome, with what the judge saw.

Nothing is chosen by its looks: samples of an outcome are spread evenly over its images, in the order of the results.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2p.evaluation.bars import TAG_TITLES
from l2p.evaluation.pictures import Picture, locate_image, read_picture, spread
from l2p.evaluation.reasons import plain_reasons

PAIRS_PER_OUTCOME = 3
SINGLES_PER_OUTCOME = 6
MAX_SIDE_PX = 320  # a picture is shown at most 160 px wide
_WHOLE_PERCENT = 100.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Box:
    """A detection, in percent of the picture; `asked`: of a class that the prompt asks for."""

    label: str
    score: float
    left: float
    top: float
    width: float
    height: float
    asked: bool


@dataclass(frozen=True)
class Shot:
    """One image as the judge saw it; `picture` is None when the file cannot be read, `faults` say why it is wrong."""

    model: str
    picture: Picture | None
    boxes: tuple[Box, ...]
    correct: bool
    faults: tuple[str, ...]

    @property
    def seen(self) -> str:
        """What the judge found, in words."""
        labels = sorted(box.label for box in self.boxes)
        return ", ".join(f"{len(list(group))} {label}" for label, group in itertools.groupby(labels)) or "nothing"


@dataclass(frozen=True)
class Sample:
    """A prompt with the image that each model drew of it from the same seed."""

    prompt: str
    shots: tuple[Shot, ...]

    @property
    def alike(self) -> bool:
        """Whether several models are wrong for the same reasons."""
        first, *others = self.shots
        return not first.correct and bool(others) and all(other.faults == first.faults for other in others)


@dataclass(frozen=True)
class Outcome:
    """Images with the same verdicts: how many there are, and samples of them. `key` is the name that styles know."""

    key: str
    title: str
    note: str
    count: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class TagGroup:
    """Outcomes of a task, those that occur; `told` is the counts in a line."""

    title: str
    told: str
    total: int
    outcomes: tuple[Outcome, ...]


# (key, title, what it means) by the verdicts of the models; in the order of the page.
_OF_TWO = {
    (True, False): ("lost", "lost", "{0} right, {1} wrong"),
    (False, True): ("gained", "gained", "{0} wrong, {1} right"),
    (False, False): ("wrong", "both wrong", ""),
    (True, True): ("right", "both right", ""),
}
_OF_ONE = {(False,): ("failed", "wrong", ""), (True,): ("right", "right", "")}


def geneval_groups(folders: Mapping[str, Path], rows: Mapping[str, Sequence[Row]]) -> list[TagGroup]:
    """Groups of each task, in the order of the results.

    Args:
        folders: of the runs of one or two models, by the name of the model.
        rows: of their results.jsonl; images that not all models have are left out.
    """
    named = {model: {_place(row): row for row in rows[model]} for model in folders}
    first, *others = named.values()
    common = [place for place in first if all(place in other for other in others)]
    by_tag: dict[str, list[dict[str, Row]]] = {}
    for place in common:
        by_tag.setdefault(first[place]["tag"], []).append({model: named[model][place] for model in folders})
    return [_group(TAG_TITLES.get(tag, tag), found, folders) for tag, found in by_tag.items()]


def find_boxes(row: Row, full_px: tuple[int, int]) -> tuple[Box, ...]:
    """The boxes of a result, those of asked classes last, so that they are drawn over the others.

    Args:
        row: of results.jsonl; `details` holds x0, y0, x1, y1 in pixels of the file and the score.
        full_px: (width, height) of the file.
    """
    asked = {clause["class"] for clause in json.loads(row["metadata"])["include"]}
    boxes = [
        _box(label, values, full_px, label in asked)
        for label, found in json.loads(row["details"]).items()
        for values in found
    ]
    return tuple(sorted(boxes, key=lambda box: box.asked))


def _place(row: Row) -> tuple[str, ...]:
    """Prompt and number of an image, which is the same for all models, wherever their images lie."""
    return Path(row["filename"]).parts[-3:]


def _group(title: str, found: Sequence[Mapping[str, Row]], folders: Mapping[str, Path]) -> TagGroup:
    by_verdict: dict[tuple[bool, ...], list[Mapping[str, Row]]] = {}
    for rows in found:
        by_verdict.setdefault(tuple(row["correct"] for row in rows.values()), []).append(rows)
    names, many = (_OF_ONE, SINGLES_PER_OUTCOME) if len(folders) == 1 else (_OF_TWO, PAIRS_PER_OUTCOME)
    outcomes = tuple(
        Outcome(
            key,
            name,
            note.format(*folders),
            len(by_verdict[verdict]),
            tuple(_sample(rows, folders) for rows in spread(by_verdict[verdict], many)),
        )
        for verdict, (key, name, note) in names.items()
        if verdict in by_verdict
    )
    return TagGroup(title, _tell(found, outcomes, list(folders)), len(found), outcomes)


def _tell(found: Sequence[Mapping[str, Row]], outcomes: Sequence[Outcome], models: Sequence[str]) -> str:
    correct = {model: sum(rows[model]["correct"] for rows in found) for model in models}
    if len(models) == 1:
        return f"{correct[models[0]]} of {len(found)} correct"
    counts = {outcome.key: outcome.count for outcome in outcomes}
    scores = ", ".join(f"{model} {correct[model]} of {len(found)}" for model in models).replace(",", " correct,", 1)
    return f"{scores}; {counts.get('lost', 0)} lost, {counts.get('gained', 0)} gained"


def _sample(rows: Mapping[str, Row], folders: Mapping[str, Path]) -> Sample:
    shots = tuple(_shot(model, folders[model], row) for model, row in rows.items())
    return Sample(next(iter(rows.values()))["prompt"], shots)


def _shot(model: str, folder: Path, row: Row) -> Shot:
    picture = read_picture([locate_image(folder, row["filename"])], max_side_px=MAX_SIDE_PX)
    boxes = () if picture is None else find_boxes(row, picture.full_px)
    return Shot(model, picture, boxes, row["correct"], plain_reasons(row["reason"], json.loads(row["metadata"])))


def _box(label: str, values: Sequence[float], full_px: tuple[int, int], asked: bool) -> Box:
    x0, y0, x1, y1, score = values
    width, height = full_px
    left, right = (_percent(x, width) for x in (x0, x1))
    top, bottom = (_percent(y, height) for y in (y0, y1))
    return Box(label, score, left, top, right - left, bottom - top, asked)


def _percent(position: float, length: int) -> float:
    return min(max(_WHOLE_PERCENT * position / length, 0.0), _WHOLE_PERCENT)
