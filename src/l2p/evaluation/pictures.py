"""Owns the pictures of the report: which ones, and how they come into the page itself."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from l2p.config import Layout
from l2p.evaluation import dpg, geneval
from l2p.evaluation.images import CARD_KEY, geneval_image
from l2p.evaluation.retention import MODELS, read_rows

PROMPTS_PER_TAG = 4
DPG_ITEMS = 6
MAX_SAMPLES = 6
MAX_SIDE_PX = 384
MAX_WIDE_PX = 640
_SMALL_PX = 128  # up to this side, pixels are kept exactly
_WEBP_QUALITY = 84

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Picture:
    """An image inside the page; `verdict` is what the judge said of it, None where it was not asked."""

    uri: str
    width_px: int
    height_px: int
    verdict: str | None = None
    good: bool | None = None


@dataclass(frozen=True)
class Pair:
    """The same prompt and seed, drawn by source and pixel model."""

    prompt: str
    source: Picture
    pixel: Picture


@dataclass(frozen=True)
class Sample:
    """What the pixel model drew at a step of its training."""

    step: int
    picture: Picture


def read_picture(path: Path, *, max_side_px: int, verdict: str | None = None, good: bool | None = None) -> Picture:
    """Read an image file into a data URI, no larger than `max_side_px`; small ones lossless, others as WebP."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    small = max(image.size) <= _SMALL_PX
    buffer = io.BytesIO()
    image.save(
        buffer, format="PNG" if small else "WEBP", **({"optimize": True} if small else {"quality": _WEBP_QUALITY})
    )
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    uri = f"data:image/{'png' if small else 'webp'};base64,{encoded}"
    return Picture(uri, image.width, image.height, verdict, good)


def geneval_pairs(folder: Path = Layout.geneval) -> dict[str, list[Pair]]:
    """Prompts spread evenly over each task, the first seed of each, {tag: pairs}; nothing is chosen by its looks."""
    rows = {model: read_rows(folder / model / geneval.RESULTS, f"l2p geneval --model {model}") for model in MODELS}
    named = {model: {row["filename"]: row for row in rows[model]} for model in MODELS}
    by_tag: dict[str, list[dict[str, Any]]] = {}
    for row in _first_images(rows["source"]):
        if row["filename"] in named["pixel"]:
            by_tag.setdefault(row["tag"], []).append(row)
    return {
        tag: [
            Pair(row["prompt"], *(_judged(folder / model, named[model][row["filename"]]) for model in MODELS))
            for row in spread(found, PROMPTS_PER_TAG)
        ]
        for tag, found in by_tag.items()
    }


def dpg_pairs(folder: Path = Layout.dpg) -> list[Pair]:
    """Items spread evenly over the benchmark, all images of each in one grid."""
    rows = {model: read_rows(folder / model / dpg.ANSWERS, f"l2p dpg --model {model}") for model in MODELS}
    values = {model: dpg.item_scores(rows[model]).values for model in MODELS}
    common = [item for item in values["source"] if item in values["pixel"]]
    pairs = []
    for item in spread(common, DPG_ITEMS):
        paths = {model: folder / model / dpg.IMAGES / f"{item}.png" for model in MODELS}
        pairs.append(
            Pair(_prompt_of(paths["source"]), *(_scored(paths[model], values[model][item]) for model in MODELS))
        )
    return pairs


def training_samples(folder: Path = Layout.training / "samples") -> list[Sample]:
    """At most six sample grids of the training, evenly spread from the first to the last."""
    files = spread(sorted(folder.glob("step-*.png")), MAX_SAMPLES)
    return [Sample(int(file.stem.split("-")[1]), read_picture(file, max_side_px=MAX_WIDE_PX)) for file in files]


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """`count` of `items`, evenly spread from the first to the last; all of them if there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _first_images(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The row of image 0 of each prompt."""
    return (row for row in rows if Path(row["filename"]).stem == geneval_image(0, 0).stem)


def _prompt_of(path: Path) -> str:
    """The prompt that a benchmark image was drawn from, as its card says."""
    with Image.open(path) as image:
        return str(json.loads(image.info[CARD_KEY])["prompt"])


def _judged(folder: Path, row: dict[str, Any]) -> Picture:
    verdict = "correct" if row["correct"] else str(row["reason"]) or "wrong"
    return read_picture(folder / row["filename"], max_side_px=MAX_SIDE_PX, verdict=verdict, good=row["correct"])


def _scored(path: Path, value: float) -> Picture:
    return read_picture(path, max_side_px=MAX_SIDE_PX, verdict=f"{100 * value:.0f}")
