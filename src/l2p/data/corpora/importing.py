"""Owns taking images of others into a project: the rows that `l2p synthesize` would have written, and the prompt set.

What a foreign folder does not say stays unknown: the source is `imported`, steps and guidance are null, and the seed
is the row's number, so that prompt and seed together still name one image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from l2p.data.corpora.foreign import ForeignImage
from l2p.data.corpora.names import TABLE, check_table
from l2p.data.corpora.placing import THREADS, delete_others, find_whole, put_bytes, require_own
from l2p.data.corpus import COLUMNS, IMAGES_PER_SHARD, measure_image
from l2p.data.prompting.candidates import (
    UNSTATED_STYLE,
    Candidate,
    check_own_ids,
    prompt_table,
    rejected_table,
)
from l2p.data.prompts import PromptSet, write_prompts
from l2p.errors import DataError
from l2p.files import atomic_path

IMPORTED = "imported"  # as source digest: no pinned source is known to have drawn the image
ORIGINAL_NAME = "imported_from"  # column with the image's name in the foreign folder
_OUR_NAME = re.compile(r"(\d{5}/\d{6}|[0-9a-f]{2}/[A-Za-z0-9_][A-Za-z0-9._-]*-\d+)\.(png|jpe?g|webp)")
_COUNTS = ("repetition", "attempt", "batch_size")  # integers that only a drawn image has
_NAMED_PROBLEMS = 3


@dataclass(frozen=True)
class PlannedImport:
    """Rows of the corpus table to come, every different caption once, and where the bytes of each file are now."""

    table: pd.DataFrame
    prompts: pd.DataFrame
    origins: dict[str, Path]

    def sizes_px(self) -> Counter[tuple[int, int]]:
        """(height, width) -> number of images."""
        return Counter(zip(self.table["height_px"].tolist(), self.table["width_px"].tolist(), strict=True))


def plan_import(images: Sequence[ForeignImage]) -> PlannedImport:
    """Read every image and make its row.

    Raises:
        DataError: images that cannot be decoded, an impossible value in a column of ours, or two prompts of one id.
    """
    measured = _measure(images)
    names = _our_names(images)
    prompts = _prompts(images)
    ids = dict(zip(prompts["text"], prompts["prompt_id"], strict=True))
    rows = [
        {"file_name": name, "prompt_id": ids[image.text], **_row(image, measure, number)}
        for number, (image, name, measure) in enumerate(zip(images, names, measured, strict=True))
    ]
    table = _typed(pd.DataFrame(rows))
    check_table(table, "the import")
    return PlannedImport(table, prompts, {name: image.path for name, image in zip(names, images, strict=True)})


def write_import(plan: PlannedImport, *, corpus: Path, prompts: Path, replace: bool = False) -> int:
    """Write corpus and prompt set; returns how many images were copied, those of an interrupted import are kept.

    The table is written last, so that an interrupted import leaves no corpus that looks whole.

    Args:
        plan: what to write.
        corpus: its folder.
        prompts: path of prompts.parquet.
        replace: delete what is there and does not belong to the import.

    Raises:
        DataError: without `replace`: the corpus holds other files, or there are other prompts.
    """
    planned = dict(zip(plan.table["file_name"], plan.table["sha256"], strict=True))
    whole = find_whole(corpus, planned)
    prompt_set = PromptSet(plan.prompts, rejected_table([]), facts={"provider": IMPORTED})
    if not replace:
        _require_nothing_else(corpus, planned, whole, plan, prompts)
    (corpus / TABLE).unlink(missing_ok=True)
    delete_others(corpus, whole)
    pending = [name for name in planned if name not in whole]
    for name in tqdm(pending, desc="copying", unit="image", disable=None):
        origin = plan.origins[name]
        put_bytes(corpus, name, origin.read_bytes(), sha256=planned[name], origin=str(origin))
    write_prompts(prompt_set, prompts)
    with atomic_path(corpus / TABLE) as partial:
        plan.table.to_parquet(partial, index=False)
    return len(pending)


def _require_nothing_else(
    corpus: Path, planned: dict[str, str], whole: set[str], plan: PlannedImport, prompts: Path
) -> None:
    advice = "Move it away, or give --replace to delete it."
    own = whole | ({TABLE} if _same_table(corpus / TABLE, plan.table) else set())
    require_own(corpus, planned, own, advice=advice)
    if prompts.is_file() and not _same_table(prompts, plan.prompts):
        raise DataError(f"{prompts}: there are other prompts already. {advice}")


def _same_table(path: Path, table: pd.DataFrame) -> bool:
    try:
        found = pd.read_parquet(path)
    except (OSError, ValueError):
        return False
    names = list(table.columns)
    return set(names) <= set(found.columns) and found[names].astype(object).equals(table[names].astype(object))


def _measure(images: Sequence[ForeignImage]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(THREADS) as pool:
        reading = pool.map(measure_image, [image.path for image in images])
        measured = list(tqdm(reading, total=len(images), desc="reading", unit="image", disable=None))
    damaged = [(image, row) for image, row in zip(images, measured, strict=True) if not row["decodable"]]
    if damaged:
        shown = "; ".join(f"{image.path} ({row['problem']})" for image, row in damaged[:_NAMED_PROBLEMS])
        raise DataError(
            f"{len(damaged)} of {len(images)} images cannot be decoded: {shown}. Repair them, or remove them with "
            "their rows; nothing was imported."
        )
    return measured


def _our_names(images: Sequence[ForeignImage]) -> list[str]:
    """Numbered names as synthesis gives them; kept if all are of that kind already."""
    names = [image.name for image in images]
    bare = [name.removeprefix("images/") for name in names]
    if all(_OUR_NAME.fullmatch(name) for name in bare) and len(set(bare)) == len(bare):
        return bare
    return [
        f"{number // IMAGES_PER_SHARD:05d}/{number:06d}{Path(name).suffix.lower()}" for number, name in enumerate(names)
    ]


def _prompts(images: Sequence[ForeignImage]) -> pd.DataFrame:
    """Every different caption once, with the id and style of its first image."""
    found: dict[str, Candidate] = {}
    for image in images:
        if image.text not in found:
            own_id, style = image.stated.get("prompt_id"), image.stated.get("style") or UNSTATED_STYLE
            found[image.text] = Candidate(image.text, str(style), image.name, str(own_id) if own_id else None)
    check_own_ids(found.values())
    return prompt_table(list(found.values()))


def _row(image: ForeignImage, measured: dict[str, Any], number: int) -> dict[str, Any]:
    stated = {key: value for key, value in image.stated.items() if value not in (None, "")}
    where = f"row {number + 1} ({image.name})"
    known = {
        "text": image.text,
        "style": str(stated.get("style", UNSTATED_STYLE)),
        "seed": _number(stated, "seed", int, where, otherwise=number),
        "sha256": measured["measured_sha256"],
        "height_px": measured["measured_height_px"],
        "width_px": measured["measured_width_px"],
        "num_steps": _number(stated, "num_steps", int, where),
        **{name: _number(stated, name, float, where) for name in ("guidance_scale", "shift")},
        **{name: _number(stated, name, int, where) for name in _COUNTS},
        "source_digest": str(stated.get("source_digest", IMPORTED)),
    }
    others = {name: _text(stated.get(name)) for name in COLUMNS if name not in ("file_name", "prompt_id", *known)}
    return {**known, **others, ORIGINAL_NAME: str(stated.get(ORIGINAL_NAME, image.name))}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(
    stated: dict[str, Any], column: str, kind: Callable[[Any], float], where: str, *, otherwise: int | None = None
) -> float | None:
    if column not in stated:
        return otherwise
    try:
        value = kind(stated[column])
    except (TypeError, ValueError, OverflowError):
        value = -1
    if not value >= 0 or value >= 2**63:
        raise DataError(f"{where}: {column} = {stated[column]!r}: expected a number of at least 0, or nothing.")
    return value


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Types as synthesis has them; integers that are not known of every image are of a type that has gaps."""
    kinds = {name: "Int64" if table[name].isna().any() else "int64" for name in ("num_steps", *_COUNTS)}
    kinds |= dict.fromkeys(("seed", "height_px", "width_px"), "int64")
    return table.astype({**kinds, "guidance_scale": "float64", "shift": "float64"})
